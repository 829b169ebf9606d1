//! Safe wrappers of the mlx-c calls that mlx-rs has not wrapped, and of mapped files ([`FileMap`]); the
//! only `unsafe` of the workspace.
//!
//! Every function here takes Rust closures that return the engine's [`Result`]. An error inside of a
//! closure comes back to the caller as the very value that the closure returned, and a panic resumes
//! at the caller once MLX has returned. A message of MLX itself becomes [`Error::Mlx`](crate::Error).
//!
//! MLX calls a closure on the thread that runs the transformation. An [`Array`](crate::Array) may
//! move to another thread and take the graph behind it along, so closures that a graph keeps must be
//! `Send`, and one that is called away from the thread that made it fails with an error.
#![allow(unsafe_code)]

mod call;
mod checkpoint;
mod closure;
mod compile;
mod custom_vjp;
mod device;
mod distributed;
mod elements;
mod eval;
mod exit;
mod file_map;
mod grad;
mod graph;
mod kernel;
mod metal;
mod vector;
mod version;

pub use checkpoint::checkpoint;
pub(crate) use checkpoint::checkpoint_around;
pub use compile::{Compiled, compile};
pub use custom_vjp::{Backward, custom_vjp};
pub use device::{DeviceInfo, device_info, has_cuda, is_on_cpu};
pub(crate) use distributed::{Collective, RawGroup, has_backend};
pub(crate) use elements::Elements;
pub use eval::{Evaluation, Noted, async_eval, eval, mark, without_evaluation};
pub(crate) use exit::at_exit;
pub use file_map::FileMap;
pub use grad::{is_differentiating, jvp, needs_gradient, value_and_grad, vjp};
pub(crate) use graph::Nodes;
pub use graph::{branch, depends, graph_text, is_same_node};
pub use kernel::{Constant, Kernel, KernelForm, KernelSource, Launch};
pub use metal::{MetalCapture, has_metal};
pub use version::mlx_version;
