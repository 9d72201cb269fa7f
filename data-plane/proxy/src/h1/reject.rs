//! Why a message is refused: every doubt the engine can have about a head or a body has a name.
//!
//! A [`Reject`] carries no bytes of the peer: its slug is stable and safe to put into a response
//! header, a log line or a metric label. What it means for the connection is always the same: the
//! position of the next message is in doubt, so the connection dies after the answer.

use std::fmt;

macro_rules! rejects {
    ($($(#[doc = $doc:literal])+ $name:ident => $status:literal, $slug:literal;)+) => {
        /// A message refused, and the reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reject { $($(#[doc = $doc])+ $name,)+ }

        impl Reject {
            /// Every reason, in the order of declaration: for tables and documentation.
            pub const ALL: &'static [Reject] = &[$(Reject::$name,)+];

            /// The stable short name: `x-outrigger-reason`, log and metric label.
            pub const fn slug(self) -> &'static str {
                match self { $(Reject::$name => $slug,)+ }
            }

            /// The status with which a request is refused. A refused response is always 502
            /// to the client, whatever this says.
            pub const fn status(self) -> u16 {
                match self { $(Reject::$name => $status,)+ }
            }
        }
    };
}

rejects! {
    /// A line ended by LF alone (RFC 9112 §2.2 lets a recipient take it; parsers then differ).
    BareLf => 400, "bare-lf";
    /// CR not followed by LF.
    BareCr => 400, "bare-cr";
    /// A NUL byte in the head.
    Nul => 400, "nul-byte";
    /// More than one empty line before the request line, or any before a status line.
    LeadingBlankLine => 400, "leading-blank-line";
    /// The method is empty or has a byte that is no token character.
    BadMethod => 400, "bad-method";
    /// The request line has not exactly method, target and version, one space apart.
    BadRequestLine => 400, "bad-request-line";
    /// A control character or `#` in the request target, or a form that RFC 9112 §3.2 does not know.
    BadTarget => 400, "bad-target";
    /// A byte ≥ 0x80 in the request target.
    TargetNotAscii => 400, "target-not-ascii";
    /// An absolute target with a scheme other than `http`.
    BadScheme => 400, "bad-scheme";
    /// `*` as target of a method other than OPTIONS.
    AsteriskTarget => 400, "asterisk-target";
    /// An authority as target (`host:port`) of a method other than CONNECT.
    AuthorityTarget => 400, "authority-target";
    /// CONNECT: the mesh opens no tunnels for HTTP/1 requests.
    Connect => 501, "connect-not-supported";
    /// A well-formed version other than HTTP/1.0 and HTTP/1.1.
    VersionNotSupported => 505, "version-not-supported";
    /// The status line is malformed.
    BadStatusLine => 400, "bad-status-line";
    /// A field line without a colon.
    BadFieldLine => 400, "bad-field-line";
    /// A field with an empty name.
    EmptyFieldName => 400, "empty-field-name";
    /// White space between the field name and the colon.
    SpaceBeforeColon => 400, "space-before-colon";
    /// A byte in a field name that is no token character.
    BadFieldName => 400, "bad-field-name";
    /// A control character in a field value.
    BadFieldValue => 400, "bad-field-value";
    /// A field line that starts with white space (obsolete line folding).
    ObsFold => 400, "obs-fold";
    /// The head is larger than [`HEAD_BYTES_MAX`](super::HEAD_BYTES_MAX).
    HeadTooLarge => 431, "head-too-large";
    /// More fields than [`FIELDS_MAX`](super::FIELDS_MAX).
    TooManyFields => 431, "too-many-fields";
    /// An HTTP/1.1 request without `Host`.
    HostMissing => 400, "host-missing";
    /// More than one `Host`.
    HostRepeated => 400, "host-repeated";
    /// A `Host`, or the authority of an absolute target, that is no host with an optional port.
    HostInvalid => 400, "host-invalid";
    /// A `Connection` value that is no list of at most [`OPTIONS_MAX`](super::OPTIONS_MAX) tokens.
    BadConnectionOption => 400, "bad-connection-option";
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthAndEncoding => 400, "length-and-encoding";
    /// More than one `Content-Length`, equal or not.
    LengthRepeated => 400, "length-repeated";
    /// A `Content-Length` that is not 1*DIGIT, or does not fit 64 bits.
    LengthInvalid => 400, "length-invalid";
    /// More than one `Transfer-Encoding`, an empty one, or a malformed list.
    EncodingInvalid => 400, "encoding-invalid";
    /// A transfer coding other than a single `chunked`.
    EncodingNotSupported => 501, "encoding-not-supported";
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    EncodingInHttp10 => 400, "encoding-in-http10";
    /// A field that some servers read as a framing field, such as `Content_Length`.
    FramingLookalike => 400, "framing-lookalike";
    /// A chunk size that is not 1 to 16 hexadecimal digits, or is followed by anything but `;` or
    /// CRLF.
    BadChunkSize => 400, "bad-chunk-size";
    /// Chunk extensions longer than allowed, in one chunk or over the whole body.
    ChunkExtensionTooLong => 400, "chunk-extension-too-long";
    /// A control character in a chunk extension.
    BadChunkExtension => 400, "bad-chunk-extension";
    /// Chunk data not followed by CRLF.
    BadChunkEnd => 400, "bad-chunk-end";
    /// The peer closed before the message was complete.
    Truncated => 400, "truncated";
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

impl std::error::Error for Reject {}
