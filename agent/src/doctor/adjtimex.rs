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
