//! An assertion that holds allocates nothing; in a binary of its own, for its allocator.
#![allow(clippy::expect_used, unsafe_code)]

use mlx_rs::{Array, Dtype, ops::zeros_dtype};
use mlx_train_core::{Result, assert_shape};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting the calls of each thread.
struct Counting;

// SAFETY: every call is passed on to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(f: impl FnOnce() -> Result<i32>) -> (Result<i32>, usize) {
    let before = ALLOCATIONS.get();
    let result = f();
    (result, ALLOCATIONS.get() - before)
}

fn check(x: &Array, q: &Array, hidden_size: usize) -> Result<i32> {
    assert_shape!(x: [batch, seq, {hidden_size}], q: [batch, heads, seq, head_dim]);
    assert_shape!(x, [.., { heads } * { head_dim }]);
    Ok(batch * seq * heads * head_dim)
}

#[test]
fn an_assertion_that_holds_allocates_nothing() {
    let zeros = |shape: &[i32]| zeros_dtype(shape, Dtype::Float32).expect("zeros");
    let (x, q) = (zeros(&[2, 5, 12]), zeros(&[2, 3, 5, 4]));
    let (size, allocations) = allocations_of(|| check(black_box(&x), black_box(&q), 12));
    assert_eq!((size.expect("it holds"), allocations), (120, 0));
    // The counter works: the error of one that fails is allocated.
    let (refused, allocations) = allocations_of(|| check(black_box(&x), black_box(&q), 13));
    assert!(refused.is_err() && allocations > 0);
}
