//! Encryption of a connection: whether, with which certificates, and the tap above it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::ConnectError;
use super::copy_tap::CopyTap;

/// Asks a server whether it speaks TLS; it answers with one byte.
///
/// # Source
/// PostgreSQL documentation, "Message Formats", `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const SSL_ACCEPTED: u8 = b'S';
const SSL_REFUSED: u8 = b'N';
/// What a client says it speaks when it begins with TLS and does not ask first.
const ALPN_PROTOCOL: &[u8] = b"postgresql";

/// How the server's certificate is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verify {
    /// Encryption only, as libpq's `prefer` and `require`.
    Nothing,
    /// The certificate must chain to a trusted root.
    Chain,
    /// And be issued for the host.
    ChainAndHost,
}

/// Whether a connection is encrypted, by `sslmode` and `sslnegotiation`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encryption {
    /// Never, when the server can, or always.
    pub(super) mode: SslMode,
    /// Whether the server is asked first.
    pub(super) negotiation: SslNegotiation,
}

/// Encrypts a connection where it should be, and taps it.
#[derive(Clone)]
pub(super) struct TappedConnect {
    rustls: MakeRustlsConnect,
    encryption: Encryption,
    host: String,
    blocks: mpsc::Sender<Vec<u8>>,
}

impl TappedConnect {
    /// Rows of COPY go to `blocks`.
    pub(super) fn new(mut tls: ClientConfig, encryption: Encryption, blocks: mpsc::Sender<Vec<u8>>) -> Self {
        if encryption.negotiation == SslNegotiation::Direct {
            tls.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
        }
        Self { rustls: MakeRustlsConnect::new(tls), encryption, host: String::new(), blocks }
    }

    /// The same without encryption, for sockets that never leave the machine.
    pub(super) fn plain(mut self) -> Self {
        self.encryption.mode = SslMode::Disable;
        self
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for TappedConnect {
    type Stream = CopyTap;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Self> {
        Ok(Self { host: host.to_owned(), ..self.clone() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for TappedConnect {
    type Stream = CopyTap;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<CopyTap>>;

    fn connect(mut self, mut stream: S) -> Self::Future {
        Box::pin(async move {
            Ok(if is_encrypted(&mut stream, self.encryption).await? {
                let Ok(tls) = MakeTlsConnect::<S>::make_tls_connect(&mut self.rustls, &self.host);
                CopyTap::new(Box::new(tls.connect(stream).await?), self.blocks)
            } else {
                CopyTap::new(Box::new(Unencrypted(stream)), self.blocks)
            })
        })
    }
}

/// Whether TLS begins now; asks the server where it may say no.
async fn is_encrypted(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), encryption: Encryption) -> io::Result<bool> {
    match encryption {
        Encryption { mode: SslMode::Disable, .. } => return Ok(false),
        Encryption { negotiation: SslNegotiation::Direct, .. } => return Ok(true),
        _ => {}
    }
    stream.write_all(&SSL_REQUEST).await?;
    match (stream.read_u8().await?, encryption.mode) {
        (SSL_ACCEPTED, _) => Ok(true),
        (SSL_REFUSED, SslMode::Prefer) => Ok(false),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "the server does not speak TLS, which sslmode asks for")),
    }
}

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

/// How certificates are checked, by `sslmode` and `sslrootcert`.
///
/// # Errors
/// [`ConnectError::Certificates`].
pub(super) fn tls_config(verify: Verify, root_certificate: Option<&str>) -> Result<ClientConfig, ConnectError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| ConnectError::Certificates { path: None, source: source.into() })?;
    if verify == Verify::Nothing {
        let verifier = AcceptAny { provider };
        return Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth());
    }
    let roots = Arc::new(trusted_roots(root_certificate)?);
    if verify == Verify::ChainAndHost {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let chain =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider).build().map_err(|source| {
            ConnectError::Certificates { path: root_certificate.map(str::to_owned), source: source.into() }
        })?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(ChainOnly { chain })).with_no_client_auth())
}

fn trusted_roots(path: Option<&str>) -> Result<RootCertStore, ConnectError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ConnectError::Certificates {
        path: path.map(str::to_owned),
        source,
    };
    let mut roots = RootCertStore::empty();
    if let Some(path) = path {
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
            let certificate = certificate.map_err(|error| failed(error.into()))?;
            roots.add(certificate).map_err(|error| failed(error.into()))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(failed("no certificate found".into()));
    }
    Ok(roots)
}

/// `sslmode=verify-ca`: the chain counts, the host name does not.
#[derive(Debug)]
struct ChainOnly {
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let name_matches = verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name).is_ok();
        match verdict {
            // The chain is checked before the name, so a failure with a wrong name is the name's.
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. },
            )) if !name_matches => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// `sslmode=prefer` and `require`: encrypts and believes any certificate, as libpq does.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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
