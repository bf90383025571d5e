#!/usr/bin/env bash
# Make one virtual environment per peer under .venvs/, with pinned versions. Their dependencies contradict each
# other and ours, so none goes into the project's own. A peer that does not install leaves the reason in
# .venvs/NAME.failed and the others go on: the benchmark then says so in its table.
#
#     benchmarks/detection/setup_peers.sh [NAME ...]        (PYTHON=python3.11 by default)
set -uo pipefail
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3.11}

declare -A PINS=(
  [river]="river==0.26.1"
  [evidently]="evidently==0.7.23 pandas==2.3.3" # it imports a name that pandas 3 has no more
  [nannyml]="nannyml==0.13.1 statsmodels==0.15.0" # it imports statsmodels without asking for it
  [frouros]="frouros==0.9.0"
)

mkdir -p .venvs
echo '*' > .venvs/.gitignore
failed=0
[[ $# -gt 0 ]] || set -- river evidently nannyml frouros
for peer in "$@"; do
  [[ -v PINS[$peer] ]] || { echo "unknown peer: $peer" >&2; exit 2; }
  rm -rf ".venvs/$peer" ".venvs/$peer.failed"
  pip=(".venvs/$peer/bin/python" -m pip --disable-pip-version-check)
  # shellcheck disable=SC2086  (a pin may be several packages)
  if "$PYTHON" -m venv ".venvs/$peer" && "${pip[@]}" --quiet install ${PINS[$peer]} 2> ".venvs/$peer.log"; then
    "${pip[@]}" freeze 2> /dev/null > ".venvs/$peer.freeze"
    echo "$peer: ${PINS[$peer]}"
  else
    grep -E '^(ERROR|error)' ".venvs/$peer.log" | head -3 > ".venvs/$peer.failed"
    rm -rf ".venvs/$peer"
    echo "$peer: did not install; see .venvs/$peer.log" >&2
    failed=1
  fi
done
exit $failed
