//! The line through measured times.

/// `(a, b)` of `seconds = a + b * bytes`, both at least 0, by least squares of relative errors: so that the small
/// sizes, which tell `a`, count as much as the large ones.
pub(super) fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    let (mut weights, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for &(bytes, seconds) in points {
        let weight = seconds.max(f64::MIN_POSITIVE).powi(-2);
        weights += weight;
        x += weight * bytes;
        y += weight * seconds;
        xx += weight * bytes * bytes;
        xy += weight * bytes * seconds;
    }
    let spread = weights * xx - x * x;
    let slope = if spread > 0.0 { ((weights * xy - x * y) / spread).max(0.0) } else { 0.0 };
    (((y - slope * x) / weights).max(0.0), slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn points_on_a_line_give_the_line(latency in 1e-6..1e-2_f64, per_second in 1e6..1e11_f64) {
            let points: Vec<(f64, f64)> = [4e3, 6e4, 1e6, 4e6, 1.6e7]
                .map(|bytes| (bytes, latency + bytes / per_second))
                .to_vec();
            let (a, b) = fit(&points);
            prop_assert!((a / latency - 1.0).abs() < 1e-3, "{a} {latency}");
            // Where latency is all, nothing tells the slope.
            if 1.6e7 / per_second > 1e-3 * latency {
                prop_assert!((b * per_second - 1.0).abs() < 1e-2, "{b} {per_second}");
            }
        }
    }

    #[test]
    fn noise_never_makes_a_time_negative() {
        let (a, b) = fit(&[(1e3, 1.0), (1e6, 0.5)]);
        assert!(a > 0.0 && b >= 0.0, "{a} {b}");
        let (a, b) = fit(&[(1e6, 1.0), (2e6, 4.0)]);
        assert!(a >= 0.0 && b > 0.0, "{a} {b}");
    }
}
