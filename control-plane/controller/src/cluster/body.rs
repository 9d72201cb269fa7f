//! What an answer carries: the whole of it, or line by line, each with a bound.

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

/// Longest line of a watch: an object is 1.5 MiB at most in etcd, and more as JSON.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More than anything that is expected there.
    #[error("it is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// It broke off.
    #[error("it broke off")]
    BrokenOff(#[source] BoxError),
}

/// All of a body.
pub(super) async fn collect<B>(mut body: B, bytes_max: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut all = BytesMut::new();
    while let Some(data) = next_data(&mut body).await? {
        if all.len() + data.len() > bytes_max {
            return Err(BodyError::TooLarge { bytes_max });
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::BrokenOff(error.into()))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// The lines of a body.
pub(super) struct Lines<B> {
    body: B,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line's end.
    searched: usize,
}

impl<B> Lines<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(body: B) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line without its end; `None` when there are no more. What stands behind the last
    /// line's end is half a line, and dropped. Cancel safe: yes, what was read stays in `self`.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES_MAX {
                let bytes_max = LINE_BYTES_MAX;
                return Err(BodyError::TooLarge { bytes_max });
            }
            match next_data(&mut self.body).await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    fn body(chunks: Vec<Bytes>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(chunk)));
        StreamBody::new(stream::iter(frames))
    }

    async fn lines(chunks: Vec<Bytes>) -> Result<Vec<String>, BodyError> {
        let mut lines = Lines::new(body(chunks));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await? {
            all.push(String::from_utf8(line.to_vec()).unwrap());
        }
        Ok(all)
    }

    #[tokio::test]
    async fn lines_come_whole_however_they_are_cut() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\nhalf a li";
        for size in 1..text.len() {
            let chunks = text.chunks(size).map(Bytes::copy_from_slice).collect();
            let found = lines(chunks).await.unwrap();
            assert_eq!(found, ["{\"a\":1}", "{\"b\":2}"], "{size}");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused() {
        let chunk = Bytes::from(vec![b'x'; 1024 * 1024]);
        let error = lines(vec![chunk.clone(); 10]).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLarge { .. }), "{error}");
        let error = collect(body(vec![chunk; 2]), 1024 * 1024)
            .await
            .unwrap_err();
        assert!(matches!(error, BodyError::TooLarge { .. }), "{error}");
    }
}
