//! The certificates with which a process proves itself.

use prometheus::IntGaugeVec;

use crate::metrics::Maker;

/// When the certificates in use expire. There is no series without TLS.
#[derive(Debug)]
pub struct CertificateMetrics(IntGaugeVec);

impl CertificateMetrics {
    /// Registers the metric.
    #[must_use]
    pub fn new(make: &Maker) -> Self {
        Self(make.gauges(
            "conclave_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, seconds since 1970.",
            &["certificate"],
        ))
    }

    /// When this certificate expires, seconds since 1970; `None` leaves the series as it is.
    pub fn set(&self, certificate: &str, expiry: Option<u64>) {
        if let Some(at) = expiry {
            self.0.with_label_values(&[certificate]).set(i64::try_from(at).unwrap_or(i64::MAX));
        }
    }
}
