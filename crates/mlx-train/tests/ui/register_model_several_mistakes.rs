use mlx_train::register_model;

#[register_model("Model", aliases = [1, ""], tag = ["vision"], description = false)]
struct Model<B>(B);

fn main() {}
