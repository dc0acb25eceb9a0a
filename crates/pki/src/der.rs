//! The few fields of certificates and signing requests that the authority itself reads.
//!
//! Signatures, names and chains are verified by rustls-webpki; only what that does not show is read here. The reader
//! accepts definite lengths only, and never reads beyond its input.

use std::net::IpAddr;
use std::time::SystemTime;

use time::{Date, Month, PrimitiveDateTime, Time};

use crate::Validity;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// A host name in a list of names.
const DNS_NAME: u8 = 0x82;
/// An IP address in a list of names.
const IP_ADDRESS: u8 = 0x87;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_3: u8 = 0xa3;

/// The id of the extension with the names of a certificate's owner, without its outer tag.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// The algorithm identifier of ECDSA with SHA-256, without its outer tag.
const ECDSA_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// The public key information of a P-256 key, up to the point.
const P256_KEY: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length of an uncompressed point of P-256, in bytes.
const P256_POINT_BYTES: usize = 65;

/// Reads elements one behind the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its content, and the whole of it. `None` if it has another tag or its length is wrong.
    fn element(&mut self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        let (&[found, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length_bytes, rest) = match first {
            0..=0x7f => (0, rest),
            0x81..=0x83 => (usize::from(first & 0x0f), rest),
            _ => return None,
        };
        let length = match length_bytes {
            0 => usize::from(first),
            _ => rest.get(..length_bytes)?.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)),
        };
        let content = rest.get(length_bytes..length_bytes.checked_add(length)?)?;
        let (whole, after) = self.0.split_at_checked(2 + length_bytes + length)?;
        if found != tag {
            return None;
        }
        self.0 = after;
        Some((content, whole))
    }

    fn enter(&mut self, tag: u8) -> Option<Self> {
        self.element(tag).map(|(content, _)| Self(content))
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The validity of a certificate.
pub(crate) fn validity(certificate: &[u8]) -> Option<Validity> {
    let mut fields = Reader(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
    validity_of(&mut fields)
}

/// Reads the fields of a certificate up to its validity.
fn validity_of(fields: &mut Reader<'_>) -> Option<Validity> {
    fields.element(CONTEXT_0)?;
    fields.element(INTEGER)?;
    fields.element(SEQUENCE)?;
    fields.element(SEQUENCE)?;
    let mut validity = fields.enter(SEQUENCE)?;
    let found = Validity { not_before: moment(&mut validity)?, not_after: moment(&mut validity)? };
    validity.end()?;
    Some(found)
}

/// The validity and the names of a certificate that the authority with this public point signed, each name and address as
/// text.
pub(crate) fn issued(certificate: &[u8], authority: &[u8]) -> Option<(Validity, Vec<String>)> {
    let signed = Signed::read(certificate)?;
    if !signed.is_signed_by(authority) {
        return None;
    }
    let mut fields = Reader(signed.content);
    let validity = validity_of(&mut fields)?;
    fields.element(SEQUENCE)?;
    fields.element(SEQUENCE)?;
    let mut extensions = fields.enter(CONTEXT_3)?.enter(SEQUENCE)?;
    while extensions.end().is_none() {
        let mut extension = extensions.enter(SEQUENCE)?;
        let (id, _) = extension.element(OBJECT_ID)?;
        // Absent where it is false.
        let _critical = extension.element(BOOLEAN);
        let value = extension.enter(OCTET_STRING)?;
        if id == SUBJECT_ALT_NAME {
            return names(value).map(|names| (validity, names));
        }
    }
    None
}

/// The host names and addresses of an extension with names.
fn names(mut value: Reader<'_>) -> Option<Vec<String>> {
    let mut names = value.enter(SEQUENCE)?;
    let mut found = Vec::new();
    while names.end().is_none() {
        let name = if let Some((name, _)) = names.element(DNS_NAME) {
            std::str::from_utf8(name).ok()?.to_owned()
        } else {
            let (address, _) = names.element(IP_ADDRESS)?;
            match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
                (Ok(v4), _) => IpAddr::from(v4).to_string(),
                (_, Ok(v6)) => IpAddr::from(v6).to_string(),
                _ => return None,
            }
        };
        found.push(name);
    }
    Some(found)
}

/// A certificate or signing request: what is signed, and the signature.
struct Signed<'a> {
    /// The content of what is signed.
    content: &'a [u8],
    /// All of what is signed.
    whole: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut outside = Reader(der);
        let mut parts = outside.enter(SEQUENCE)?;
        outside.end()?;
        let (content, whole) = parts.element(SEQUENCE)?;
        let (algorithm, _) = parts.element(SEQUENCE)?;
        let (signature, _) = parts.element(BIT_STRING)?;
        parts.end()?;
        Some(Self { content, whole, algorithm, signature: signature.strip_prefix(&[0])? })
    }

    /// Whether it is signed by the P-256 key with this point.
    fn is_signed_by(&self, point: &[u8]) -> bool {
        self.algorithm == ECDSA_SHA256
            && point.len() == P256_POINT_BYTES
            && webpki::ring::ECDSA_P256_SHA256.verify_signature(point, self.whole, self.signature).is_ok()
    }
}

fn moment(fields: &mut Reader<'_>) -> Option<SystemTime> {
    let (generalized, text) = match fields.0.first()? {
        &UTC_TIME => (false, fields.element(UTC_TIME)?.0),
        _ => (true, fields.element(GENERALIZED_TIME)?.0),
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != if generalized { 14 } else { 12 } || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let (year, rest) = digits.split_at(if generalized { 4 } else { 2 });
    let year = match number(year) {
        year if generalized => year,
        // RFC 5280: two digits are the years 1950 to 2049.
        year if year < 50 => 2_000 + year,
        year => 1_900 + year,
    };
    let mut pairs = rest.chunks_exact(2).map(|pair| u8::try_from(number(pair)).ok());
    let mut next = || pairs.next().flatten();
    let date = Date::from_calendar_date(i32::from(year), Month::try_from(next()?).ok()?, next()?).ok()?;
    let time = Time::from_hms(next()?, next()?, next()?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().into())
}

/// The public point of a P-256 signing request, if the request is signed with its key.
pub(crate) fn requested_key(request: &[u8]) -> Option<Vec<u8>> {
    let signed = Signed::read(request)?;
    let mut fields = Reader(signed.content);
    let (version, _) = fields.element(INTEGER)?;
    fields.element(SEQUENCE)?;
    let (key, _) = fields.element(SEQUENCE)?;
    let point = key.strip_prefix(P256_KEY)?;
    (version == [0] && signed.is_signed_by(point)).then(|| point.to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_of_time_are_read() {
        let read = |tag, text: &str| {
            let mut der = vec![tag, u8::try_from(text.len()).unwrap()];
            der.extend(text.as_bytes());
            moment(&mut Reader(&der))
        };
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(read(UTC_TIME, "700101000001Z"), at(1));
        assert_eq!(read(UTC_TIME, "491231235959Z"), at(2_524_607_999));
        assert_eq!(read(GENERALIZED_TIME, "20500101000000Z"), at(2_524_608_000));
        for wrong in ["", "Z", "700101000001", "701301000001Z", "70010100000xZ", "19700101000001Z"] {
            assert_eq!(read(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_refused_without_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(validity(&noise).is_none());
            prop_assert!(requested_key(&noise).is_none());
            prop_assert!(issued(&noise, &[4; P256_POINT_BYTES]).is_none());
            let _ = names(Reader(&noise));
        }

        #[test]
        fn elements_lie_within_their_input(
            noise in proptest::collection::vec(prop_oneof![Just(SEQUENCE), Just(0x81), Just(0x82), any::<u8>()], 0..200)
        ) {
            let mut reader = Reader(&noise);
            let mut read = 0;
            while let Some((content, whole)) = reader.element(SEQUENCE) {
                prop_assert!(content.len() < whole.len());
                read += whole.len();
            }
            prop_assert_eq!(read + reader.0.len(), noise.len());
        }
    }
}
