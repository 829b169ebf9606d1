use mlx_train::register_model;

#[register_model("model", aliases = ["my net"])]
struct Model;

fn main() {}
