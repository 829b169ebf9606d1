// What kernels have in common: a thread reads and writes some neighbours.

struct Pack {
  static constexpr constant int size = 4;
  float at[size];
};

// The first `left` elements of a pack, and zeros after them. `From` points to elements of any type, in any address space.
template <typename From>
Pack load_pack(From from, int left) {
  Pack pack;
  for (int j = 0; j < Pack::size; ++j) {
    pack.at[j] = j < left ? static_cast<float>(from[j]) : 0.0f;
  }
  return pack;
}

// Writes the first `left` elements of a pack.
template <typename T>
void store_pack(device T* to, Pack pack, int left) {
  for (int j = 0; j < Pack::size; ++j) {
    if (j < left) to[j] = static_cast<T>(pack.at[j]);
  }
}
