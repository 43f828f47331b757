//! What busy directions copy through. Each message would otherwise take a large block from the allocator and give it back, which costs as
//! much as all else that is done for it outside of the kernel; so each thread keeps one.

use std::cell::Cell;

/// Large enough that a bulk transfer spends its time in the kernel's copy and not on the way there, small enough that a
/// thousand busy connections hold 128 MiB.
pub(super) const BUFFER: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty one.
pub(super) fn take() -> Vec<u8> {
    // A thread that ends has none any more.
    let spare = SPARE.try_with(Cell::take).unwrap_or_default();
    if spare.capacity() == 0 { Vec::with_capacity(BUFFER) } else { spare }
}

/// It is not needed any more.
pub(super) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == BUFFER {
        buffer.clear();
        let _ = SPARE.try_with(|spare| spare.set(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_one_and_nothing_of_what_was_in_it() {
        let mut buffer = take();
        buffer.extend_from_slice(b"somebody's");
        let place = buffer.as_ptr();
        give_back(buffer);
        give_back(Vec::new());
        let (again, another) = (take(), take());
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (place, 0, BUFFER));
        assert_eq!((another.len(), another.capacity()), (0, BUFFER));
        assert_ne!(another.as_ptr(), place);
    }
}
