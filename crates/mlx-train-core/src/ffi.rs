//! Safe wrappers of the mlx-c calls that mlx-rs has not wrapped; the only `unsafe` of the workspace.
