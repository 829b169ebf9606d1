//! Repeated commands of the workspace.

fn main() {}
