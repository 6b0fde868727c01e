//! Multicast DNS (RFC 6762), as far as candidates need it: one name asked for, one address found.
//!
//! Browsers hide the addresses of their host behind names like `0a1b….local` that they answer for in the local network
//! (draft-ietf-mmusic-mdns-ice-candidates). What is read comes from anybody there: it is bounded, and believed no further
//! than a candidate is, which is as far as its checks are answered. Sending and waiting is the shell's job.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

#[cfg(test)]
mod tests;

/// Where questions and answers go (RFC 6762 section 3).
pub(crate) const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// Digits of the groups of a UUID (RFC 9562 section 4).
const UUID: [usize; 5] = [8, 4, 4, 4, 12];
/// Records of one message that are looked at: a host has some, and all of them fit a datagram.
const MAX_RECORDS: usize = 64;
/// Labels and pointers of one name that are followed.
const MAX_STEPS: usize = 32;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// The upper bit of a class: in a record, that it replaces older ones (RFC 6762 section 10.2).
const CLASS_MASK: u16 = 0x7fff;
/// A response, in the flags of the header.
const RESPONSE: u16 = 0x8000;

/// A name that may be asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Name {
    /// The one label before `local`, in small letters.
    label: String,
}

impl Name {
    /// Only a UUID in `local.`, as browsers make them up (section 3.1.1 of the draft). Any other name is that of a
    /// printer or of somebody's computer: a peer must neither learn what it means here nor make this host ask for it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let label = text.to_ascii_lowercase();
        let label = label.strip_suffix(".local")?;
        let is_group = |(group, len): (&str, usize)| {
            group.len() == len && group.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let groups = label.split('-');
        let valid = groups.clone().count() == UUID.len() && groups.zip(UUID).all(is_group);
        valid.then(|| Self {
            label: label.to_owned(),
        })
    }

    /// A query for its addresses.
    pub(crate) fn query(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(128);
        // The number is zero in multicast (section 18.1), and there are two questions and nothing else.
        for field in [0, 0, 2, 0, 0, 0] {
            put(&mut message, field);
        }
        for kind in [TYPE_A, TYPE_AAAA] {
            for label in [self.label.as_bytes(), b"local"] {
                message.push(u8::try_from(label.len()).expect("a UUID has 36 bytes"));
                message.extend_from_slice(label);
            }
            message.push(0);
            put(&mut message, kind);
            put(&mut message, CLASS_IN);
        }
        message
    }

    /// The address that a message gives for the name, if it is an answer to that.
    pub(crate) fn answer(&self, message: &[u8]) -> Option<IpAddr> {
        let mut reader = Reader { message, at: 0 };
        let _number = reader.u16()?;
        // Responses with any code other than zero are to be ignored (section 18.11).
        let flags = reader.u16()?;
        if flags & RESPONSE == 0 || flags & 0x780f != 0 {
            return None;
        }
        let questions = reader.u16()?;
        let records = [reader.u16()?, reader.u16()?, reader.u16()?];
        debug_assert_eq!(reader.at, HEADER);
        for _ in 0..usize::from(questions).min(MAX_RECORDS) {
            reader.name(self)?;
            reader.skip(4)?;
        }
        let records = records.into_iter().map(usize::from).sum::<usize>();
        for _ in 0..records.min(MAX_RECORDS) {
            if let Some(address) = reader.record(self)? {
                return Some(address);
            }
        }
        None
    }
}

fn put(message: &mut Vec<u8>, field: u16) {
    message.extend_from_slice(&field.to_be_bytes());
}

/// A place in a message. Nothing is read behind its end.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.take(len).map(|_| ())
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    }

    /// One resource record: the address in it, if it is one of the name.
    fn record(&mut self, wanted: &Name) -> Option<Option<IpAddr>> {
        let is_wanted = self.name(wanted)?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let lives = self.take(4)? != [0; 4];
        let len = self.u16()?;
        let data = self.take(usize::from(len))?;
        if !is_wanted || class & CLASS_MASK != CLASS_IN || !lives {
            return Some(None);
        }
        let v4 = <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from);
        let v6 = <[u8; 16]>::try_from(data).ok().map(Ipv6Addr::from);
        Some(match kind {
            TYPE_A => v4.map(IpAddr::V4),
            TYPE_AAAA => v6.map(IpAddr::V6),
            _ => None,
        })
    }

    /// One name, perhaps compressed (RFC 1035 section 4.1.4): whether it is `wanted`.
    fn name(&mut self, wanted: &Name) -> Option<bool> {
        let labels = [wanted.label.as_bytes(), b"local"];
        let mut equal = Some(0);
        // Where reading goes on behind the name, once a pointer has left it.
        let mut behind = None;
        for _ in 0..MAX_STEPS {
            let len = usize::from(*self.take(1)?.first()?);
            match len >> 6 {
                0 if len == 0 => {
                    self.at = behind.unwrap_or(self.at);
                    return Some(equal == Some(labels.len()));
                }
                0 => {
                    let label = self.take(len)?;
                    equal = equal.filter(|&index| {
                        let expected = labels.get(index);
                        expected.is_some_and(|expected| expected.eq_ignore_ascii_case(label))
                    });
                    equal = equal.map(|index| index + 1);
                }
                3 => {
                    let low = usize::from(*self.take(1)?.first()?);
                    behind.get_or_insert(self.at);
                    self.at = (len & 0x3f) << 8 | low;
                }
                _ => return None,
            }
        }
        None
    }
}
