//! Text as a part of a URL's path or query.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes text for one segment of a path or one value of a query.
pub(super) fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_part_of_a_url() {
        assert_eq!(encoded(r#"{"a=é"}"#).to_string(), "%7B%22a%3D%C3%A9%22%7D");
        assert_eq!(encoded("a/b?c&d-e.f_g~h").to_string(), "a%2Fb%3Fc%26d-e.f_g~h");
    }
}
