//! A filter of system calls: [`seccomp(2)`](https://man7.org/linux/man-pages/man2/seccomp.2.html).
//!
//! In a user namespace of one user, files have one owner, and a process one identity. Package
//! managers give files to many and want to hear that it worked. The filter says so, and nothing is
//! done. It protects nothing and nobody: what it does not know, it lets pass.

use std::io;

use nix::errno::Errno;

/// `AUDIT_ARCH_*` (linux/audit.h): a filter sees calls of other architectures too, with other
/// numbers.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Calls that change who owns a file or who a process is.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const CALLS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// Makes changes of ownership and identity do nothing and succeed, for this process and all that it
/// starts. It must have given up privileges for good (`no_new_privs`).
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn pretend_ownership() -> io::Result<()> {
    let filter = filter();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a few instructions"),
        // The kernel only reads it; the type is C's habit.
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the instructions that it points to outlive the call, with the length
    // that goes with them; the kernel copies both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0 as libc::c_uint,
            &raw const program,
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Nobody has looked up what the calls are on this architecture.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn pretend_ownership() -> io::Result<()> {
    Err(Errno::ENOSYS.into())
}

/// ```text
///      load architecture; another: to "pass"
///      load number; one of CALLS: to "pretend"
/// pass:     allow
/// pretend:  return 0
/// ```
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter() -> Vec<libc::sock_filter> {
    // linux/bpf_common.h, and the offsets of `nr` and `arch` in `struct seccomp_data`.
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    let instruction = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let left = |done: usize| u8::try_from(CALLS.len() - done).expect("a few calls");

    let mut filter = vec![
        instruction(LOAD, ARCH, 0, 0),
        // Past the next load and all comparisons.
        instruction(JUMP_IF_EQUAL, ARCHITECTURE, 0, left(0) + 1),
        instruction(LOAD, NUMBER, 0, 0),
    ];
    for (n, call) in CALLS.iter().enumerate() {
        // Past the comparisons that are left, and "pass".
        filter.push(instruction(JUMP_IF_EQUAL, *call as u32, left(n), 0));
    }
    filter.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    filter.push(instruction(RETURN, libc::SECCOMP_RET_ERRNO, 0, 0));
    filter
}
