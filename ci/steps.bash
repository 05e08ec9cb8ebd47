# shellcheck shell=bash
# Steps that are announced, timed and named when they fail. Sourced by ci/test and ci/bench.
#
#   step "formatting" cargo fmt --all --check      runs a command as a step; the script ends when it fails
#   steps_done                                     the last line, after the last step

steps_script=$0
steps_current=
steps_started=$SECONDS

# step NAME COMMAND...
step() {
    steps_current=$1
    shift
    local started=$SECONDS
    echo "==> $steps_current"
    "$@"
    echo "    $steps_current: $((SECONDS - started)) s"
    steps_current=
}

steps_done() {
    echo "==> all is well ($((SECONDS - steps_started)) s)"
}

steps_report() {
    local status=$?
    if [[ $status -ne 0 ]]; then
        echo "==> FAILED: ${steps_current:-$steps_script} (exit status $status, after $((SECONDS - steps_started)) s)" >&2
    fi
}
trap steps_report EXIT
