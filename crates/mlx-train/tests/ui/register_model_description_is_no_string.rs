use mlx_train::register_model;

#[register_model("model", description = 2)]
struct Model;

fn main() {}
