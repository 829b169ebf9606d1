//! What one checkpoint holds, for another thread to write.

use super::HostArray;
use crate::{Result, ffi::eval};
use mlx_rs::Array;
use serde_json::Value;

/// The state of a run after a step, in host memory.
///
/// The store gives no meaning to what is in it: arrays have names, the rest is JSON.
///
/// ```
/// # use mlx_train_core::{Array, store::Snapshot};
/// # use serde_json::json;
/// let weight = Array::from_slice(&[1.0_f32, 2.0], &[2]);
/// let snapshot = Snapshot {
///     model: "mlp".into(),
///     progress: json!({ "rows": 640 }),
///     metric: Some(0.25),
///     ..Snapshot::take(10, [("linear.weight", &weight)], [])?
/// };
/// assert_eq!(snapshot.num_bytes(), 8);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// How many steps are behind it.
    pub step: u64,
    /// The name of the model in the registry.
    pub model: String,
    /// Every parameter by name, those that do not train too.
    pub weights: Vec<(String, HostArray)>,
    /// What training needs besides: optimizer state, random state, averaged weights.
    pub training: Vec<(String, HostArray)>,
    /// Anything else that resuming needs: the position in the data, the schedule, the best so far.
    pub progress: Value,
    /// The resolved config.
    pub config: Value,
    /// The number that says how good it is; one that is not finite is as none.
    pub metric: Option<f64>,
}

impl Snapshot {
    /// Evaluates arrays and takes them, as [`HostArray::take`] does; model, progress, config and metric are left empty.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn take<'a, S: Into<String>>(
        step: u64,
        weights: impl IntoIterator<Item = (S, &'a Array)>,
        training: impl IntoIterator<Item = (S, &'a Array)>,
    ) -> Result<Self> {
        let weights: Vec<_> = weights.into_iter().collect();
        let training: Vec<_> = training.into_iter().collect();
        // All at once, so that MLX may compute them together.
        eval(weights.iter().chain(&training).map(|(_, array)| *array))?;
        let take = |arrays: Vec<(S, &Array)>| {
            let taken =
                arrays.into_iter().map(|(name, it)| Ok((name.into(), HostArray::take(it)?)));
            taken.collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            step,
            model: String::new(),
            weights: take(weights)?,
            training: take(training)?,
            progress: Value::Null,
            config: Value::Null,
            metric: None,
        })
    }

    /// How many bytes its arrays have.
    pub fn num_bytes(&self) -> u64 {
        let arrays = self.weights.iter().chain(&self.training);
        arrays.map(|(_, array)| array.bytes().len() as u64).sum()
    }
}
