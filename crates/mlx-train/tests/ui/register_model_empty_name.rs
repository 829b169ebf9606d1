use mlx_train::register_model;

#[register_model("")]
struct Model;

fn main() {}
