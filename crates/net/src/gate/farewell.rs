//! What a port says to a connection that it refuses: its first request of HTTP/2 gets an answer, so that the
//! client knows why, and is not left with a broken connection.
//!
//! The answer consists of header fields that are written down literally, so no state of HTTP/2 is kept for it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tonic::codegen::http::HeaderMap;

use super::Full;
use crate::limits::FAREWELL_BYTES_MAX;

/// The first bytes of an HTTP/2 client.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of the header of a frame.
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// `END_HEADERS` and `END_STREAM`.
const COMPLETE: u8 = 4 | 1;
/// `:status: 200`, from HPACK's static table.
const STATUS_OK: u8 = 0x80 | 8;
/// A header field with a new name that no table keeps.
const LITERAL: u8 = 0;
/// `ENHANCE_YOUR_CALM`
const CALM_DOWN: u32 = 11;

/// The answers to the requests of refused connections, as header fields of an answer without a body.
#[derive(Clone, Debug)]
pub struct Farewells {
    /// To one that comes while all places are taken.
    pub full: HeaderMap,
    /// To one whose address has all the places that one address may have.
    pub address: HeaderMap,
}

impl Farewells {
    pub(super) fn to(&self, why: Full) -> Vec<u8> {
        let fields = match why {
            Full::Full => &self.full,
            Full::Address => &self.address,
        };
        let mut block = vec![STATUS_OK];
        for (name, value) in fields {
            block.push(LITERAL);
            for text in [name.as_str().as_bytes(), value.as_bytes()] {
                put_length(text.len(), &mut block);
                block.extend_from_slice(text);
            }
        }
        block
    }
}

/// An integer of HPACK with a prefix of seven bits: the length of a text that is not compressed.
fn put_length(length: usize, out: &mut Vec<u8>) {
    const PREFIX: usize = 0x7f;
    let Some(mut rest) = length.checked_sub(PREFIX) else {
        return out.push(low_byte(length));
    };
    out.push(low_byte(PREFIX));
    while rest >= 0x80 {
        out.push(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_byte(rest));
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

/// Answers the first request of the connection with these header fields, encoded, and ends it. A client that speaks no
/// HTTP/2 gets the end only.
pub(super) async fn say(mut wire: impl AsyncRead + AsyncWrite + Unpin, fields: Vec<u8>, deadline: Duration) {
    let exchange = async {
        let stream = first_request(&mut wire).await?;
        wire.write_all(&answer(stream, &fields)).await?;
        wire.shutdown().await?;
        // To close a connection with unread bytes would reset it, and the client might lose the answer.
        tokio::io::copy(&mut wire.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // The connection is closed whatever became of it.
    drop(timeout(deadline, exchange).await);
}

/// Reads up to the first request. Returns the number of its stream; `None` if this is no HTTP/2.
async fn first_request(wire: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u32>> {
    let mut seen = Vec::new();
    let mut wire = wire.take(FAREWELL_BYTES_MAX);
    while wire.read_buf(&mut seen).await? > 0 {
        if !seen.iter().zip(PREFACE).all(|(seen, expected)| seen == expected) {
            return Ok(None);
        }
        if let Some(stream) = request_in(&seen) {
            return Ok(Some(stream));
        }
    }
    Ok(None)
}

fn request_in(seen: &[u8]) -> Option<u32> {
    let mut rest = seen.get(PREFACE.len()..)?;
    loop {
        let (header, after) = rest.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let [a, b, c, kind, _, stream @ ..] = *header;
        if kind == HEADERS {
            return Some(u32::from_be_bytes(stream) & (u32::MAX >> 1));
        }
        rest = after.get(u32::from_be_bytes([0, a, b, c]).try_into().unwrap_or(usize::MAX)..)?;
    }
}

fn answer(stream: Option<u32>, fields: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    if let Some(stream) = stream {
        frame(&mut out, HEADERS, COMPLETE, stream, fields);
    }
    let last = stream.unwrap_or(0).to_be_bytes();
    frame(&mut out, GOAWAY, 0, 0, &[last, CALM_DOWN.to_be_bytes()].concat());
    out
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [.., a, b, c] = payload.len().to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_is_found_behind_other_frames() {
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[0; 12]);
        frame(&mut bytes, 8, 0, 0, &[0, 1, 0, 0]);
        let before = bytes.len();
        frame(&mut bytes, HEADERS, 4, 1, &[STATUS_OK]);
        for length in 0..before + FRAME_HEADER_BYTES {
            assert_eq!(request_in(&bytes[..length]), None, "{length}");
        }
        assert_eq!(request_in(&bytes), Some(1));
    }

    #[test]
    fn lengths_are_those_of_hpack() {
        let encoded = |length| {
            let mut out = Vec::new();
            put_length(length, &mut out);
            out
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(126), [126]);
        assert_eq!(encoded(127), [127, 0]);
        assert_eq!(encoded(254), [127, 127]);
        assert_eq!(encoded(255), [127, 0x80, 1]);
    }

    #[tokio::test]
    async fn who_speaks_no_http_2_gets_the_end_and_nobody_is_waited_for_long() {
        for said in [&b"GET / HTTP/1.1\r\n"[..], &[22, 3, 1, 2, 0][..]] {
            let (mut near, far) = tokio::io::duplex(1024);
            near.write_all(said).await.unwrap();
            near.shutdown().await.unwrap();
            let mut heard = Vec::new();
            let (_, read) = tokio::join!(
                say(far, vec![STATUS_OK], Duration::from_secs(10)),
                near.read_to_end(&mut heard)
            );
            read.unwrap();
            assert_eq!(heard, answer(None, &[]), "{said:?}");
        }
        let (mut near, far) = tokio::io::duplex(1024);
        say(far, vec![STATUS_OK], Duration::from_millis(1)).await;
        assert_eq!(near.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }
}
