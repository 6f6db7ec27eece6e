#!/bin/sh
# On a machine with a GPU of NVIDIA's: whether it is in containers what it is outside.
#   tests/gpu-real/run.sh [IMAGE..]     default: debian:12 almalinux:9 ubuntu:20.04
#   tests/gpu-real/run.sh --check       only whether this script and its probe are in order
# Wants shifter in PATH, a C compiler, nvidia-smi, and a registry that has the images. Runs as any user.
# With nvidia-ctk, all is done twice: by a CDI file, and by what Shifter finds itself. In a job of
# Slurm's, the GPUs are the job's. Prints ok or FAILS for each, and ends with 1 if anything fails.
set -u

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0

ok() { printf 'ok     %s\n' "$*"; }
fails() { printf 'FAILS  %s\n' "$*"; failed=1; }
build() { cc -Wall -Wextra -Werror -O1 -fno-stack-protector "$@"; }

if [ "${1:-}" = --check ]; then
    build -c -o "$work/probe.o" "$here/probe.c" || exit 1
    # All that it takes from elsewhere is the C library's or CUDA's.
    odd=$(nm -u "$work/probe.o" | sed 's/.* U //' | grep -v '^cu[A-Z]' | sort | tr '\n' ' ')
    expected='_exit clock_gettime close dprintf fork memset pipe read strcmp vdprintf waitpid write '
    [ "$odd" = "$expected" ] || { echo "gpu-real: the probe needs: $odd" >&2; exit 1; }
    echo "gpu-real: in order; there is nothing to be seen without a GPU"
    exit 0
fi

for program in shifter nvidia-smi cc; do
    command -v "$program" >/dev/null || { echo "gpu-real: $program not found" >&2; exit 2; }
done
nvidia-smi -L >"$work/host" || { echo "gpu-real: nvidia-smi finds no GPU" >&2; exit 2; }
build -nostartfiles -o "$work/probe" "$here/probe.c" -l:libcuda.so.1 || exit 2
ok "host: $(wc -l <"$work/host") GPUs"
"$work/probe" >"$work/host.probe" || { echo "gpu-real: the probe fails on the host" >&2; exit 2; }
sed 's/^/       /' "$work/host.probe"

# Half of the slower of two runs, of each of two numbers: what noise does not explain.
least() {
    "$work/probe" bandwidth >"$work/a"
    "$work/probe" bandwidth >"$work/b"
    cat "$work/a" "$work/b" | awk 'NR == 1 { to = $1; from = $2 }
        { if ($1 < to) to = $1; if ($2 < from) from = $2 }
        END { print int(to * 0.8), int(from * 0.8) }'
}
floor=$(least)

look() {
    how=$1 image=$2
    if shifter run --gpu "$image" nvidia-smi -L >"$work/inside" 2>"$work/said"; then
        if cmp -s "$work/host" "$work/inside"; then
            ok "$how, $image: nvidia-smi lists the same"
        else
            fails "$how, $image: nvidia-smi lists other GPUs: $(cat "$work/inside")"
        fi
    else
        fails "$how, $image: nvidia-smi: $(tail -n 1 "$work/said")"
        return
    fi
    if shifter run --gpu -v "$work/probe:/probe:ro" "$image" /probe >"$work/inside" 2>"$work/said"
    then
        ok "$how, $image: $(grep ^cuda: "$work/inside"); PTX, IPC"
    else
        fails "$how, $image: probe: $(tail -n 1 "$work/said")"
        return
    fi
    rate=$(shifter run --gpu -v "$work/probe:/probe:ro" "$image" /probe bandwidth)
    if echo "$floor $rate" | awk '{ exit !($3 >= $1 && $4 >= $2) }'; then
        ok "$how, $image: $rate MB/s to it and back, as on the host"
    else
        fails "$how, $image: $rate MB/s to it and back; on the host at least $floor"
    fi
    if shifter run --gpu=none "$image" nvidia-smi -L >/dev/null 2>&1; then
        fails "$how, $image: --gpu=none has nvidia-smi all the same"
    fi
}

each() {
    for image in $images; do
        look "$1" "$image"
    done
}

images=${*:-debian:12 almalinux:9 ubuntu:20.04}
mkdir "$work/none" "$work/cdi"
SHIFTER_GPU_CDI_DIRS=$work/none
export SHIFTER_GPU_CDI_DIRS
each "found by itself"
if command -v nvidia-ctk >/dev/null; then
    if nvidia-ctk --quiet cdi generate --output="$work/cdi/nvidia.yaml"; then
        chmod 644 "$work/cdi/nvidia.yaml"
        SHIFTER_GPU_CDI_DIRS=$work/cdi
        each "by a CDI file"
    else
        fails "nvidia-ctk cdi generate"
    fi
fi
exit $failed
