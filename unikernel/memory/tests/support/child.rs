//! Tests in a process of their own.

/// Runs `child` in a fork of this process; `Ok` when it returned `true`, else the status the child ended with.
pub(crate) fn in_a_fork(child: impl FnOnce() -> bool) -> Result<(), i32> {
    // SAFETY: the child uses the service and the C library's allocator, which both mind forks, and ends in this
    // function.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: without this a child that hangs would be waited for without end.
        unsafe { libc::alarm(60) };
        let passed = child();
        // SAFETY: ends the child at once, without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    // SAFETY: waits for a child of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if status == 0 { Ok(()) } else { Err(status) }
}
