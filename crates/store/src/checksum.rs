//! Rows with a checksum: CRC-32 of key and value, then the value.
//!
//! The checksum covers the key, so that a row under another row's key is detected, too.

use crate::error::StoreError;

const CRC: usize = 4;

/// A row's bytes: the checksum, then the value.
pub(crate) fn add(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(CRC + value.len());
    row.extend_from_slice(&crc(key, value).to_le_bytes());
    row.extend_from_slice(value);
    row
}

/// A row's value, if the checksum matches.
pub(crate) fn verify<'a>(file: &'static str, key: &[u8], row: &'a [u8]) -> Result<&'a [u8], StoreError> {
    if let Some((stored, value)) = row.split_first_chunk::<CRC>()
        && u32::from_le_bytes(*stored) == crc(key, value)
    {
        return Ok(value);
    }
    Err(StoreError::damaged(file, format!("the row {key:02x?} has a wrong checksum")))
}

fn crc(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}
