"""Runs a command in a control group whose devices are fewer: deny.py GROUP MINOR[,MINOR] COMMAND..

GROUP is a new directory of a mounted cgroup2. Memory devices (major 1) of these minor numbers are
denied by a program of the kind that systemd and Slurm attach (BPF_PROG_TYPE_CGROUP_DEVICE)."""
import ctypes, os, platform, struct, sys

group, minors, command = sys.argv[1], [int(n) for n in sys.argv[2].split(",")], sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]


def bpf(number, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(SYS_BPF, number, buffer, len(attributes))
    if result < 0:
        error = ctypes.get_errno()
        sys.exit(f"bpf({number}): {os.strerror(error)}")
    return result


def instruction(code, to, by, offset, value):
    return struct.pack("<BBhi", code, by << 4 | to, offset, value)


# struct bpf_cgroup_dev_ctx: access type, major, minor. Result: 1 lets it pass.
program = instruction(0x61, 2, 1, 4, 0) + instruction(0x61, 3, 1, 8, 0)
program += instruction(0xB7, 0, 0, 0, 1)
program += instruction(0x55, 2, 0, len(minors) + 1, 1)
for at, minor in enumerate(minors):
    program += instruction(0x15, 3, 0, len(minors) - at, minor)
program += instruction(0x95, 0, 0, 0, 0)
program += instruction(0xB7, 0, 0, 0, 0) + instruction(0x95, 0, 0, 0, 0)
code, licence = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"GPL")
log = ctypes.create_string_buffer(65536)
loaded = bpf(5, struct.pack("<IIQQIIQ", 15, len(program) // 8, ctypes.addressof(code),
                            ctypes.addressof(licence), 1, len(log), ctypes.addressof(log)))
os.mkdir(group)
try:
    directory = os.open(group, os.O_RDONLY)
    bpf(8, struct.pack("<IIII", directory, loaded, 6, 2))
    child = os.fork()
    if child == 0:
        with open(group + "/cgroup.procs", "w") as processes:
            processes.write(str(os.getpid()))
        os.execvp(command[0], command)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
finally:
    os.rmdir(group)
sys.exit(status)
