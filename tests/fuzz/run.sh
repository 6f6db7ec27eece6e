#!/bin/sh
# Fuzzes for SECONDS each, all targets or those that are named, one after the other:
#   tests/fuzz/run.sh SECONDS [TARGET..]
# Prints a table, and fails with the inputs of what was found: CARGO_TARGET_DIR/fuzz/findings/TARGET.
# What was learnt stays in fuzz/corpus, and is where the next run begins. One finding ends its target.
set -eu

seconds=${1:?how many seconds for each target?}
shift
cd "$(dirname "$0")/../.."
fuzz=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
version=0.13.2

if [ "$("$fuzz/bin/cargo-fuzz" --version 2>/dev/null)" != "cargo-fuzz $version" ]; then
    cargo install --quiet --locked --root "$fuzz" --target-dir "$fuzz/install" \
        --version "$version" cargo-fuzz
fi
# No sanitizer: the only memory that is not Rust's to look after is what inflate fences off, and
# without one a stable compiler does.
PATH="$fuzz/bin:$PATH" cargo fuzz build --fuzz-dir tests/fuzz --sanitizer none \
    --target-dir "$fuzz/target"
targets=${*:-$(PATH="$fuzz/bin:$PATH" cargo fuzz list --fuzz-dir tests/fuzz)}
programs=$(echo "$fuzz"/target/*-linux-*/release)

# Others have to get through, to what links are to lead to.
TMPDIR=$(mktemp -d -p /dev/shm shifter-fuzz.XXXXXX)
chmod 711 "$TMPDIR"
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM

number() {
    sed -n "s/^stat::$1: *//p" "$log"
}

table=$(printf '%-14s %12s %8s %8s %8s' target executions exec/s corpus findings)
found=
for target in $targets; do
    corpus=$fuzz/corpus/$target seeds=$fuzz/seeds/$target
    findings=$fuzz/findings/$target log=$fuzz/$target.log
    rm -rf "$seeds"
    mkdir -p "$corpus" "$findings"
    echo "fuzz: $target for $seconds s"
    # Long enough for a few headers of an archive, all that a stack is made of, a page of JSON.
    case $target in layer) length=12288 ;; stacks) length=512 ;; *) length=4096 ;; esac
    # What was found once is tried first.
    set -- "$programs/$target" "$corpus" "$seeds/seeds" "$findings" -artifact_prefix="$findings/" \
        -max_total_time="$seconds" -max_len=$length -rss_limit_mb=2048 -timeout=20 \
        -print_final_stats=1
    status=0
    FUZZ_SEEDS=$seeds "$programs/$target" >"$log" 2>&1 || status=$?
    [ ! -s "$seeds/words" ] || set -- "$@" -dict="$seeds/words"
    [ "$status" != 0 ] || "$@" >"$log" 2>&1 || status=$?
    [ "$status" = 0 ] || found="$found $target"
    table="$table
$(printf '%-14s %12s %8s %8s %8s' "$target" "$(number number_of_executed_units)" \
        "$(number average_exec_per_sec)" "$(find "$corpus" -type f | wc -l)" \
        "$([ "$status" = 0 ] && echo 0 || echo 1)")"
done
echo "$table"
for target in $found; do
    # A panic's own words, or the signal's.
    log=$fuzz/$target.log
    grep -m 1 -A 2 'panicked at\|ERROR: libFuzzer' "$log" || tail -n 3 "$log"
    echo "fuzz: $target: $(sed -n 's/.*Test unit written to //p' "$log"); all of it: $log"
done
[ -z "$found" ]
