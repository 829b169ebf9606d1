use mlx_train::register_model;

#[register_model("model", "other")]
struct Model;

fn main() {}
