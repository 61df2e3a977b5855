//! Values on the stack, where the verifier wants what is written and read by words to be aligned.
//!
//! The compiler would set and move memory by calls that go octet by octet, which costs time here and, worse, the verifier's.
//! So what begins as zeros is written word by word, in a way that the compiler does not gather again.

use core::{
    mem::{MaybeUninit, size_of, transmute_copy},
    ptr,
};

/// Aligned, as the verifier wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct OnStack<T>(pub(crate) T);

/// What is made of integers and octets alone.
///
/// # Safety
/// All zeros are a value of the type.
pub(crate) unsafe trait Zero {}

/// Writes zeros, `N` words of them, which must be all that the place has.
#[inline(always)]
pub(crate) fn zero<T: Zero, const N: usize>(place: &mut MaybeUninit<OnStack<T>>) -> &mut OnStack<T> {
    write_zeros::<T, N>(place.as_mut_ptr());
    // SAFETY: all of it was written, with a value that the type has.
    unsafe { place.assume_init_mut() }
}

/// Writes zeros over what is there, likewise.
#[inline(always)]
pub(crate) fn clear<T: Zero, const N: usize>(place: &mut OnStack<T>) {
    write_zeros::<T, N>(place);
}

#[inline(always)]
fn write_zeros<T: Zero, const N: usize>(place: *mut OnStack<T>) {
    const { assert!(size_of::<OnStack<T>>() == 8 * N) };
    let words = place.cast::<u64>();
    let mut index = 0;
    while index < N {
        let word = words.wrapping_add(index);
        // SAFETY: the index is less than the number of words of the place, which is aligned like one, and whose owner lent it to be written to.
        unsafe { ptr::write_volatile(word, 0) };
        index += 1;
    }
}

/// Copies three words to a map's value, which has them at such a place, from where they are aligned.
#[inline(always)]
pub(crate) fn copy<T: Copy>(from: &T, to: *mut T) {
    const { assert!(size_of::<T>() == 24) };
    // SAFETY: of one size, as just asserted; every bit pattern is a number.
    let [a, b, c] = unsafe { transmute_copy::<T, [u64; 3]>(from) };
    let to = to.cast::<u64>();
    for (word, value) in [(to, a), (to.wrapping_add(1), b), (to.wrapping_add(2), c)] {
        // SAFETY: three words are as long as the value behind the pointer, which the caller has from the kernel, writable.
        unsafe { ptr::write_volatile(word, value) };
    }
}
