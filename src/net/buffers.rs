//! The relay buffers of a thread, lent for as long as bytes are in transit.

use std::cell::RefCell;

/// One TLS record of the largest kind (RFC 8446 §5.1).
pub const BUFFER_SIZE: usize = 16 * 1024;
/// Buffers kept for later on one thread: half a megabyte.
const SPARE_BUFFERS: usize = 32;

/// A buffer, in the hands of whoever has bytes in it.
pub type Buffer = Box<[u8; BUFFER_SIZE]>;

thread_local! {
    // A read that finds nothing gives its buffer back, so idle tunnels hold none and a busy worker needs few.
    static SPARE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// One that was given back, or a new one.
pub fn take_buffer() -> Buffer {
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    spare.unwrap_or_else(|| Box::new([0; BUFFER_SIZE]))
}

/// Gives one back.
pub fn return_buffer(buffer: Buffer) {
    // The thread's locals may be gone already when a runtime is torn down with the thread.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
pub(crate) fn spare_buffers() -> usize {
    SPARE.with_borrow(Vec::len)
}
