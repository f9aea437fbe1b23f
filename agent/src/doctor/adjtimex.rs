//! The kernel's word on its clock (adjtimex(2)).

/// Whether somebody keeps the clock; nothing when the kernel does not say.
pub(super) fn is_synchronised() -> Option<bool> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `modes` is 0, so that nothing is set; the buffer is ours and
    // outlives the call.
    let state = unsafe { libc::adjtimex(&mut timex) };
    let synchronised = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    (state >= 0).then_some(synchronised)
}

/// Sets the clock by so many nanoseconds; `EPERM` for who may not.
#[cfg(test)]
pub(crate) fn shift_nanos(nanos: i32) -> std::io::Result<()> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    // The kernel wants the second part positive.
    timex.time.tv_sec = if nanos < 0 { -1 } else { 0 };
    timex.time.tv_usec = (i64::from(nanos) - timex.time.tv_sec as i64 * 1_000_000_000) as _;
    // SAFETY: the buffer is ours and outlives the call.
    match unsafe { libc::adjtimex(&mut timex) } {
        state if state < 0 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}
