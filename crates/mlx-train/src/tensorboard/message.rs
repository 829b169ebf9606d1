//! Protocol buffer messages, as far as event files need them.
//!
//! A field is a varint of its number and wire type, then its value.
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH_AND_BYTES: u64 = 2;
const FOUR_BYTES: u64 = 5;

impl Message {
    /// Adds an `int64` or an enum.
    pub(super) fn integer(self, field: u64, value: u64) -> Self {
        self.key(field, VARINT).varint(value)
    }

    /// Adds a `double`.
    pub(super) fn double(self, field: u64, value: f64) -> Self {
        self.key(field, EIGHT_BYTES).raw(&value.to_le_bytes())
    }

    /// Adds a `float`.
    pub(super) fn float(self, field: u64, value: f32) -> Self {
        self.key(field, FOUR_BYTES).raw(&value.to_le_bytes())
    }

    /// Adds a `string` or `bytes`.
    pub(super) fn bytes(self, field: u64, value: &[u8]) -> Self {
        self.key(field, LENGTH_AND_BYTES).varint(value.len() as u64).raw(value)
    }

    /// Adds a message within this one.
    pub(super) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// The message as it is written.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.0
    }

    fn key(self, field: u64, wire_type: u64) -> Self {
        self.varint(field << 3 | wire_type)
    }

    /// Seven bits a byte, the lowest first; all but the last have their highest bit set.
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn the_examples_of_the_specification_are_encoded_as_there() {
        assert_eq!(Message::default().integer(1, 150).encoded(), [0x08, 0x96, 0x01]);
        let text = Message::default().bytes(2, b"testing");
        assert_eq!(text.encoded(), b"\x12\x07testing");
        let inner = Message::default().integer(1, 150);
        assert_eq!(Message::default().message(3, &inner).encoded(), [0x1a, 3, 0x08, 0x96, 0x01]);
        let largest = Message::default().integer(1, u64::MAX);
        assert_eq!(largest.encoded(), [8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }
}
