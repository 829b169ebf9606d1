//! `assert_shape!` and its relatives, as a function of the user's would use them.
#![allow(clippy::expect_used)]

use mlx_rs::{Array, Dtype, error::Exception, ops::zeros_dtype};
use mlx_train_core::{
    Error, Result,
    shape::{ShapeError, assert_dtype, assert_same_shape, assert_shape},
};
use proptest::prelude::*;

fn zeros(shape: &[i32]) -> Array {
    zeros_dtype(shape, Dtype::Float32).expect("zeros")
}

/// The text behind `file:line: `.
fn text(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.split_once(": ").map(|(_, text)| text.to_owned()).expect("a location")
}

struct Layer {
    hidden_size: usize,
    num_heads: i32,
}

impl Layer {
    const WIDTH: i32 = 3;

    fn head_dim(&self) -> i32 {
        self.hidden_size as i32 / self.num_heads
    }

    fn forward(&self, x: &Array) -> Result<(i32, i32)> {
        assert_shape!(x, [batch, seq, self.hidden_size]);
        Ok((batch, seq))
    }

    fn attention(&self, x: &Array, q: &Array) -> Result<i32> {
        assert_shape!(x: [batch, seq, {self.hidden_size}], q: [batch, heads, seq, head_dim]);
        assert_shape!(x, [{ batch }, { seq }, { heads } * { head_dim }]);
        assert_shape!(q, [_, self.num_heads, .., self.head_dim()]);
        Ok(head_dim)
    }
}

const LAYER: Layer = Layer { hidden_size: 12, num_heads: 3 };

#[test]
fn names_become_variables_with_the_sizes_of_their_axes() -> Result<()> {
    assert_eq!(LAYER.forward(&zeros(&[2, 5, 12]))?, (2, 5));
    assert_eq!(LAYER.attention(&zeros(&[2, 5, 12]), &zeros(&[2, 3, 5, 4]))?, 4);
    Ok(())
}

#[test]
fn the_error_names_the_expression_the_pattern_the_shape_and_every_size() {
    let error = LAYER.forward(&zeros(&[2, 5, 13])).expect_err("13 is not 12");
    assert_eq!(
        text(&error),
        "`x` has shape [2, 5, 13], expected [batch, seq, {self.hidden_size}]: axis 2 is 13, not 12 \
         (batch = 2, seq = 5, self.hidden_size = 12)"
    );
    let error = LAYER.attention(&zeros(&[2, 5, 12]), &zeros(&[2, 3, 6, 4])).expect_err("seq");
    assert_eq!(
        text(&error),
        "`q` has shape [2, 3, 6, 4], expected [batch, heads, seq, head_dim]: axis 2 is 6, not 5 \
         (batch = 2, seq = 5, self.hidden_size = 12, heads = 3, head_dim = 4)"
    );
}

#[test]
fn the_error_names_the_line_of_the_caller() {
    let check = |x: &Array| -> Result<u32, ShapeError> {
        let line = line!() + 1;
        assert_shape!(x, [1]);
        Ok(line)
    };
    let line = check(&zeros(&[1])).expect("it fits");
    let error = check(&zeros(&[2])).expect_err("it does not");
    let expected = format!("{}:{line}: ", file!());
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn a_wrong_number_of_axes_is_said_as_such() {
    let exact = |x: &Array| -> Result<()> {
        assert_shape!(x, [_, _]);
        Ok(())
    };
    let error = exact(&zeros(&[2])).expect_err("one axis");
    assert_eq!(text(error), "`x` has shape [2], expected [_, _]: it has 1 axis, not 2");
    let open = |x: &Array| -> Result<i32> {
        assert_shape!(x, [.., rows, 4]);
        Ok(rows)
    };
    assert_eq!(open(&zeros(&[3, 4])).expect("no leading axes"), 3);
    assert_eq!(open(&zeros(&[9, 8, 3, 4])).expect("two leading axes"), 3);
    let error = open(&zeros(&[4])).expect_err("one axis");
    let expected = "`x` has shape [4], expected [.., rows, 4]: it has 1 axis, not at least 2";
    assert_eq!(text(error), expected);
}

#[test]
fn a_scalar_has_no_axes() {
    let check = |x: &Array| -> Result<()> {
        assert_shape!(x, []);
        Ok(())
    };
    assert!(check(&zeros(&[])).is_ok());
    assert!(check(&zeros(&[1])).is_err());
}

#[test]
fn a_product_binds_its_one_unknown_factor_by_division() {
    let split = |x: &Array, head_dim: usize| -> Result<i32> {
        assert_shape!(x, [_, heads * { head_dim }]);
        Ok(heads)
    };
    assert_eq!(split(&zeros(&[1, 12]), 4).expect("divides"), 3);
    let error = split(&zeros(&[1, 12]), 5).expect_err("does not divide");
    assert_eq!(
        text(error),
        "`x` has shape [1, 12], expected [_, heads*{head_dim}]: axis 1 is 12, no multiple of 5 \
         (head_dim = 5)"
    );
    assert!(split(&zeros(&[1, 12]), 0).is_err());
    assert!(split(&zeros(&[1, 12]), usize::MAX).is_err());
}

#[test]
fn a_product_waits_for_names_that_a_later_array_binds() {
    let check = |x: &Array, y: &Array| -> Result<(i32, i32)> {
        assert_shape!(x: [2 * rows * columns], y: [columns, _]);
        Ok((rows, columns))
    };
    assert_eq!(check(&zeros(&[24]), &zeros(&[4, 1])).expect("24 = 2 * 3 * 4"), (3, 4));
}

#[test]
fn constants_and_literals_are_compared() {
    let check = |x: &Array| -> Result<()> {
        assert_shape!(x, [Layer::WIDTH, 2]);
        Ok(())
    };
    assert!(check(&zeros(&[3, 2])).is_ok());
    let error = check(&zeros(&[4, 2])).expect_err("4 is not 3");
    assert!(text(&error).contains("[{Layer::WIDTH}, 2]"), "{error}");
}

#[test]
fn each_expression_is_evaluated_once() {
    let mut calls = 0;
    let mut check = |x: &Array| -> Result<()> {
        let mut size = || {
            calls += 1;
            2
        };
        assert_shape!(x, [{ size() }, 3 * { size() }]);
        Ok(())
    };
    assert!(check(&zeros(&[2, 6])).is_ok());
    assert_eq!(calls, 1, "the same expression is one value");
}

#[test]
fn variables_of_the_user_are_not_captured() {
    let check = |values: &Array, shapes: i32| -> Result<i32> {
        assert_shape!(values, [size, { shapes }]);
        Ok(size)
    };
    assert_eq!(check(&zeros(&[2, 3]), 3).expect("it fits"), 2);
}

#[test]
fn a_temporary_array_lives_long_enough() {
    let check = |x: &Array| -> Result<i32> {
        assert_shape!(x.add(x)?, [rows, _]);
        Ok(rows)
    };
    assert_eq!(check(&zeros(&[2, 3])).expect("it fits"), 2);
}

#[test]
fn it_stands_in_functions_of_mlx_rs() {
    let check = |x: &Array| -> Result<(), Exception> {
        assert_shape!(x, [1]);
        assert_dtype!(x, Float32);
        assert_same_shape!(x, x);
        Ok(())
    };
    assert!(check(&zeros(&[1])).is_ok());
    let error = check(&zeros(&[2])).expect_err("2 is not 1");
    assert!(error.what().contains("axis 0 is 2, not 1"), "{error}");
}

#[test]
fn relatives_name_both_sides() {
    let dtype = |x: &Array| -> Result<()> {
        assert_dtype!(x, Int32 | Uint32);
        Ok(())
    };
    let error = dtype(&zeros(&[1])).expect_err("f32");
    assert_eq!(text(&error), "`x` is Float32, expected Int32 | Uint32");
    let same = |x: &Array, y: &Array| -> Result<()> {
        assert_same_shape!(x, y);
        Ok(())
    };
    let error = same(&zeros(&[1]), &zeros(&[2])).expect_err("different");
    assert_eq!(text(&error), "`x` has shape [1], but `y` has shape [2]");
    assert!(matches!(error, Error::Shape(ShapeError::Different { .. })));
}

#[test]
fn the_error_is_small() {
    assert!(size_of::<ShapeError>() <= 96, "{}", size_of::<ShapeError>());
}

proptest! {
    // The generated code and the explanation decide alike: an assertion that fails has a reason.
    #[test]
    fn it_holds_exactly_if_the_sizes_do(
        x in prop::collection::vec(1..4_i32, 0..4),
        y in prop::collection::vec(1..9_i32, 0..4),
        width in 1..4_i32,
    ) {
        let check = |x: &Array, y: &Array| -> Result<(i32, i32, i32)> {
            assert_shape!(x: [a, .., b], y: [a*b, {width}*c, _]);
            Ok((a, b, c))
        };
        let holds = x.len() >= 2
            && y.len() == 3
            && y[0] == x[0] * x[x.len() - 1]
            && y[1] % width == 0;
        match check(&zeros(&x), &zeros(&y)) {
            Ok(sizes) => {
                prop_assert!(holds);
                prop_assert_eq!(sizes, (x[0], x[x.len() - 1], y[1] / width));
            }
            Err(error) => {
                prop_assert!(!holds);
                let text = text(&error);
                prop_assert!(text.contains("axis ") || text.contains("it has "), "{}", text);
            }
        }
    }
}
