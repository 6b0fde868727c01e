//! How a text of the command line becomes a key of the table, so that js-libp2p computes the same one.

use data_encoding::BASE32_NOPAD;
use libp2p::{kad::RecordKey, multihash::Multihash};
use sha2::{Digest as _, Sha256};

/// <https://github.com/multiformats/multicodec>: sha2-256.
const SHA2_256: u64 = 0x12;
/// The first bytes of a CID: version 1, content of the type "raw".
const CID_V1_RAW: [u8; 2] = [0x01, 0x55];

/// The key of a record: the bytes of the text. js-libp2p wants `/NAMESPACE/NAME` and a validator for the namespace.
pub(crate) fn record(text: &str) -> RecordKey {
    RecordKey::new(&text)
}

/// The key of a provider: the sha2-256 multihash of the text. `contentRouting.findProviders` of js-libp2p takes a CID and
/// looks for its multihash.
pub(crate) fn provider(text: &str) -> RecordKey {
    RecordKey::new(&multihash(text))
}

/// The CID that js-libp2p takes for [`provider`]'s key.
pub(crate) fn cid(text: &str) -> String {
    let bytes = [&CID_V1_RAW[..], &multihash(text)].concat();
    format!("b{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
}

fn multihash(text: &str) -> Vec<u8> {
    Multihash::<64>::wrap(SHA2_256, &Sha256::digest(text))
        .expect("a SHA-256 digest fits into a multihash of 64 bytes")
        .to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_key_is_a_multihash() {
        let key = provider("hello world").to_vec();
        assert_eq!((key.len(), &key[..2]), (34, &[0x12, 0x20][..]));
    }

    #[test]
    fn a_cid_is_what_other_tools_print() {
        // `ipfs add --raw-leaves` of these bytes.
        assert_eq!(
            cid("hello world"),
            "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        );
    }
}
