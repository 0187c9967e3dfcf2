//! Encryption of a connection: whether, and which certificates are trusted.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{BoxError, ConnectError};

/// Asks a server whether it speaks TLS; it answers with one byte.
///
/// # Source
/// PostgreSQL documentation, "Message Formats", `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const SSL_ACCEPTED: u8 = b'S';
const SSL_REFUSED: u8 = b'N';
/// What a client says it speaks when it begins with TLS and does not ask first.
const ALPN_PROTOCOL: &[u8] = b"postgresql";
/// What others may do with a private key: nothing, or its group may read it when it is root's.
const OTHERS: u32 = 0o077;
const OTHERS_OF_ROOT: u32 = 0o037;

/// Whether a connection is encrypted, and what is then asked of the server's certificate. Each asks for more than the
/// one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum SslMode {
    /// Never.
    Disable,
    /// Only where the server insists.
    Allow,
    /// Where the server can.
    Prefer,
    /// Always.
    Require,
    /// And the certificate must chain to a trusted root.
    VerifyCa,
    /// And be issued for the host.
    VerifyFull,
}

/// One way to begin a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    EncryptedIfOffered,
    Encrypted,
}

impl SslMode {
    /// The ways to try, one after the other when the server refuses the one before for want or excess of encryption.
    pub(super) fn ways(self) -> &'static [Way] {
        match self {
            Self::Disable => &[Way::Plain],
            Self::Allow => &[Way::Plain, Way::Encrypted],
            Self::Prefer => &[Way::EncryptedIfOffered, Way::Plain],
            Self::Require | Self::VerifyCa | Self::VerifyFull => &[Way::Encrypted],
        }
    }
}

/// What a connection string says about encryption.
#[derive(Clone)]
pub(super) struct EncryptionOptions {
    pub(super) mode: SslMode,
    /// Whether the server is asked first.
    pub(super) negotiation: SslNegotiation,
    /// A file of trusted roots, [`EncryptionOptions::SYSTEM`] for the operating system's, which none means too.
    pub(super) root_certificates: Option<String>,
    /// The file of the certificate by which the server knows us, and of its key.
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    /// Whether the host's name is sent in clear, for servers that have several certificates.
    pub(super) tells_server_name: bool,
}

impl EncryptionOptions {
    /// Stands for the operating system's trusted roots.
    pub(super) const SYSTEM: &str = "system";

    /// Reads the certificates; nothing is read where nothing is encrypted.
    ///
    /// # Errors
    /// [`ConnectError::Certificates`].
    pub(super) fn encryptor(&self) -> Result<Encryptor, ConnectError> {
        let rustls = match self.mode {
            SslMode::Disable => None,
            _ => Some(MakeRustlsConnect::new(self.client_config()?)),
        };
        Ok(Encryptor { rustls, negotiation: self.negotiation })
    }

    fn client_config(&self) -> Result<ClientConfig, ConnectError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| certificates(None, source))?;
        let roots = match (&self.root_certificates, self.mode) {
            // As libpq: roots that are given count in every mode.
            (Some(_), _) | (None, SslMode::VerifyCa | SslMode::VerifyFull) => Some(Arc::new(self.roots()?)),
            (None, _) => None,
        };
        let builder = match roots {
            Some(roots) if self.mode == SslMode::VerifyFull => builder.with_root_certificates(roots),
            roots => {
                let chain = roots.map(|roots| {
                    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                        .build()
                        .map_err(|source| certificates(self.root_certificates.as_deref(), source))
                });
                let verifier = AnyName { chain: chain.transpose()?, provider };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let chain = read_certificates(path)?;
                let key = self.key.as_deref().ok_or_else(|| certificates(Some(path), "it has no sslkey"))?;
                builder
                    .with_client_auth_cert(chain, read_key(key)?)
                    .map_err(|source| certificates(Some(path), source))?
            }
        };
        config.enable_sni = self.tells_server_name;
        if self.negotiation == SslNegotiation::Direct {
            config.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
        }
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, ConnectError> {
        let path = self.root_certificates.as_deref().filter(|path| *path != Self::SYSTEM);
        let mut roots = RootCertStore::empty();
        if let Some(path) = path {
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|source| certificates(Some(path), source))?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            return Err(certificates(path, "no certificate found"));
        }
        Ok(roots)
    }
}

fn certificates(path: Option<&str>, source: impl Into<BoxError>) -> ConnectError {
    ConnectError::Certificates { path: path.map(str::to_owned), source: source.into() }
}

fn read_certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let certificates_of = CertificateDer::pem_file_iter(path).map_err(|source| certificates(Some(path), source))?;
    certificates_of.collect::<Result<_, _>>().map_err(|source| certificates(Some(path), source))
}

/// Reads a private key that nobody else may read.
fn read_key(path: &str) -> Result<PrivateKeyDer<'static>, ConnectError> {
    let found = fs::metadata(path).map_err(|source| certificates(Some(path), source))?;
    let forbidden = if found.uid() == 0 { OTHERS_OF_ROOT } else { OTHERS };
    if found.mode() & forbidden != 0 {
        return Err(certificates(Some(path), "others may read this private key; chmod 0600 helps"));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|source| certificates(Some(path), source))
}

/// Encrypts connections as one connection string says.
pub(super) struct Encryptor {
    rustls: Option<MakeRustlsConnect>,
    negotiation: SslNegotiation,
}

impl Encryptor {
    /// Begins a connection.
    pub(super) async fn begin<S>(&mut self, mut stream: S, way: Way, host: &str) -> io::Result<Box<dyn ServerStream>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(rustls) = self.rustls.as_mut().filter(|_| way != Way::Plain) else {
            return Ok(Box::new(Unencrypted(stream)));
        };
        if self.negotiation != SslNegotiation::Direct {
            stream.write_all(&SSL_REQUEST).await?;
            match (stream.read_u8().await?, way) {
                (SSL_ACCEPTED, _) => {}
                (SSL_REFUSED, Way::EncryptedIfOffered) => return Ok(Box::new(Unencrypted(stream))),
                _ => {
                    let reason = "the server does not speak TLS, which sslmode asks for";
                    return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
                }
            }
        }
        let Ok(tls) = MakeTlsConnect::<S>::make_tls_connect(rustls, host);
        Ok(Box::new(tls.connect(stream).await?))
    }
}

/// A connection to a server, encrypted or not.
pub(super) trait ServerStream: TlsStream + Send + Unpin {}

impl<S: TlsStream + Send + Unpin> ServerStream for S {}

/// A stream as it is.
pub(super) struct Unencrypted<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Unencrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unencrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Unencrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// Checks less than rustls does: the chain without the host's name for `verify-ca`, and nothing for `prefer` and
/// `require`, which only encrypt.
#[derive(Debug)]
struct AnyName {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is checked before the name, so all but the name is right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
