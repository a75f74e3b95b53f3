# shellcheck shell=bash
# Sourced by test scripts: named checks that are counted.

checks_passed=0 checks_failed=0
checks_log=$(mktemp)
trap 'rm -f "$checks_log"' EXIT

# check NAME COMMAND...   the command must succeed; its output is shown only if it does not.
check() {
  local name=$1 start=$SECONDS
  shift
  # Run alone, not as a condition: a condition would switch `set -e` off inside functions.
  set +e
  (set -e; "$@") >"$checks_log" 2>&1 </dev/null
  local status=$?
  set -e
  if ((status == 0)); then
    ((++checks_passed))
    printf 'ok      %-60s %3d s\n' "$name" $((SECONDS - start))
  else
    ((++checks_failed))
    printf 'FAILED  %s\n' "$name"
    sed 's/^/        | /' "$checks_log"
  fi
}

# fails TEXT COMMAND...   succeeds when the command fails and says TEXT.
fails() {
  local text=$1 output
  shift
  if output=$("$@" 2>&1); then
    echo "should have failed: $*"
    return 1
  fi
  if ! grep -qF "$text" <<<"$output"; then
    echo "failed, but without '$text': $output"
    return 1
  fi
}

# The last line of a script.
report_checks() {
  echo "$checks_passed passed, $checks_failed failed"
  ((checks_failed == 0))
}
