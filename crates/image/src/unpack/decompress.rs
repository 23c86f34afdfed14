//! Decompression by content (gzip, zstd, none), with a limit on what comes out and an eye on the disk.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use super::RESERVED_DISK_BYTES;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Skippable zstd frames (RFC 8878 section 3.1.2) have 0x184D2A50 to 0x184D2A5F as magic number.
const ZSTD_SKIPPABLE_MAGIC: &[u8] = &[0x2a, 0x4d, 0x18];
/// Free space is looked at after every so many bytes; far less than the reserve.
const DISK_CHECK_EVERY: u64 = 16 << 20;

/// What stops an archive that is too large, or that nobody wants any more.
pub(super) struct Guard {
    /// Decompressed bytes still allowed.
    pub(super) remaining: u64,
    /// Set when the pull was cancelled.
    pub(super) cancelled: Arc<AtomicBool>,
    /// A file or directory on the disk that is being filled.
    pub(super) disk: File,
}

/// Decompressed content of a layer. Errors without an error number are about the content.
pub(super) struct Content {
    decoder: Decoder,
    guard: Guard,
    until_disk_check: u64,
}

enum Decoder {
    Plain(BufReader<File>),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
    Zstd(Box<ZstdDecoder>),
}

/// Recognises the compression and starts to decompress.
pub(super) fn open(file: File, guard: Guard) -> io::Result<Content> {
    let mut reader = BufReader::with_capacity(128 << 10, file);
    let head = reader.fill_buf()?;
    let decoder = if head.starts_with(GZIP_MAGIC) {
        Decoder::Gzip(Box::new(MultiGzDecoder::new(reader)))
    } else if head.starts_with(ZSTD_MAGIC) || head.get(1..4) == Some(ZSTD_SKIPPABLE_MAGIC) {
        Decoder::Zstd(Box::new(ZstdDecoder { source: reader, frame: FrameDecoder::new(), in_frame: false }))
    } else {
        Decoder::Plain(reader)
    };
    Ok(Content { decoder, guard, until_disk_check: 0 })
}

/// Bytes an ordinary process may still write to the filesystem of `file`.
pub(crate) fn free_bytes(file: &File) -> io::Result<u64> {
    let status = rustix::fs::fstatvfs(file)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.guard.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("the pull was cancelled"));
        }
        if self.until_disk_check == 0 {
            if free_bytes(&self.guard.disk)? < RESERVED_DISK_BYTES {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "could not unpack a layer"));
            }
            self.until_disk_check = DISK_CHECK_EVERY;
        }
        let count = match &mut self.decoder {
            Decoder::Plain(reader) => reader.read(buffer)?,
            Decoder::Gzip(decoder) => decoder.read(buffer)?,
            Decoder::Zstd(decoder) => decoder.read(buffer)?,
        };
        let read = u64::try_from(count).unwrap_or(u64::MAX);
        self.until_disk_check = self.until_disk_check.saturating_sub(read);
        self.guard.remaining = self.guard.remaining.checked_sub(read).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "a layer unpacks to more than this node accepts")
        })?;
        Ok(count)
    }
}

/// All frames of a zstd stream one after the other; `ruzstd` itself stops after the first.
struct ZstdDecoder {
    source: BufReader<File>,
    frame: FrameDecoder,
    in_frame: bool,
}

impl ZstdDecoder {
    /// Starts the next frame that has content; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.frame.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut (&mut self.source).take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl Read for ZstdDecoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            self.in_frame = true;
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let one = ruzstd::decoding::BlockDecodingStrategy::UptoBlocks(1);
                self.frame.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            let count = self.frame.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn content_of(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        file.rewind()?;
        let disk = file.try_clone()?;
        let guard = Guard { remaining: limit, cancelled: Arc::default(), disk };
        let mut text = Vec::new();
        open(file, guard)?.read_to_end(&mut text)?;
        Ok(text)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn reads_every_compression_and_several_members_or_frames() {
        let text = b"layer ".repeat(50_000);
        let double = [text.clone(), text.clone()].concat();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        assert_eq!(content_of(&text, u64::MAX).unwrap(), text);
        assert_eq!(content_of(&[gzip(&text), gzip(&text)].concat(), u64::MAX).unwrap(), double);
        assert_eq!(
            content_of(&[zstd(&text), skippable.clone(), zstd(&text)].concat(), u64::MAX).unwrap(),
            double
        );
        assert_eq!(content_of(&[skippable, zstd(&text)].concat(), u64::MAX).unwrap(), text);
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_limit() {
        let bomb = vec![0; 4 << 20];
        for packed in [gzip(&bomb), zstd(&bomb)] {
            assert!(packed.len() < 100_000);
            assert_eq!(content_of(&packed, 1 << 20).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
    }

    #[test]
    fn damaged_content_is_an_error() {
        for mut packed in [gzip(&b"x".repeat(1000)), zstd(&b"some text ".repeat(1000))] {
            packed.truncate(packed.len() - 6);
            assert!(content_of(&packed, u64::MAX).is_err());
        }
    }
}
