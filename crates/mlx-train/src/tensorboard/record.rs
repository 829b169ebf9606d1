//! The framing of event files, `TFRecord`.
//!
//! Length (u64), masked CRC-32C of the length (u32), data, masked CRC-32C of the data (u32), all
//! little endian. Source: <https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>.

use crc::{CRC_32_ISCSI, Crc};

const CRC_32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// `data` as one record.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let parts = [&length[..], &masked_crc(&length), data, &masked_crc(data)];
    parts.concat()
}

/// A checksum of data that holds its own checksum is weak, so the format turns and shifts it.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    CRC_32C.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // The test vectors of RFC 3720, appendix B.4.
        assert_eq!(CRC_32C.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(CRC_32C.checksum(&[0xff; 32]), 0x62a8_ab43);
    }
}
