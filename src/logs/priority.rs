//! Priority of the appending threads.
//!
//! Each acknowledgement of the server waits for one of them to get a processor;
//! on a busy machine that wait, not the disk, makes the slowest appends.

/// Niceness that is asked for: ahead of everything else in the process, behind
/// nothing that keeps the machine alive.
const NICE: libc::c_int = -5;

/// Raises the calling thread's priority where that is allowed (`LimitNICE=` of
/// systemd, or root); says whether it was.
#[allow(unsafe_code, reason = "setpriority has no safe form in std")]
pub(super) fn raise() -> bool {
    // SAFETY: plain system call on numbers; 0 names the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) == 0 }
}
