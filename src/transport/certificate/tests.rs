use libp2p_identity::{ecdsa, ed25519, secp256k1};
use p256::ecdsa::{VerifyingKey, signature::Verifier};
use rand::{SeedableRng, rngs::StdRng};

use super::*;

/// The certificate go-libp2p derives from the Ed25519 seed 00 01 .. 1f.
const GOLDEN_DER: &str = "308201353081dba003020102020900cca8608f147a2fc0300a06082a8648ce3d040302\
    301f311d301b060355040313146c69627032702d7765627274632d646972656374\
    3020170d3230303130313030303030305a180f32313230303130313030303030305a\
    301f311d301b060355040313146c69627032702d7765627274632d646972656374\
    3059301306072a8648ce3d020106082a8648ce3d03010703420004\
    fa4d28e8163d577f326d5cb5766056e89694ccce08215c67e559b64a66109e4a\
    2282573a1fa10f25f069a806ec086314192ddbaf5263e91edd85c97e6fc35abb\
    300a06082a8648ce3d0403020349003046\
    022100e10754a0823a5c1842b37b8cc0a390c5a0bfeba3362b076221da1dea71fc1a33\
    022100e7a5c2b92ad2134cd97f3700612b53b6d077b54a5938636a1ed9a20865c1c3b1";

/// Made with OpenSSL 3: `ecparam -name prime256v1 -genkey`, `req -x509`, `pkcs8 -topk8`.
const OPENSSL_SEC1: &str = include_str!("testdata/openssl-sec1.pem");
const OPENSSL_PKCS8: &str = include_str!("testdata/openssl-pkcs8.pem");
const OPENSSL_P384: &str = include_str!("testdata/openssl-p384.pem");
const OPENSSL_RSA: &str = include_str!("testdata/openssl-rsa.pem");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn counting_seed() -> [u8; 32] {
    std::array::from_fn(|index| u8::try_from(index).unwrap())
}

fn ed25519(seed: [u8; 32]) -> Keypair {
    let secret = ed25519::SecretKey::try_from_bytes(seed).unwrap();
    ed25519::Keypair::from(secret).into()
}

fn secp256k1(scalar: [u8; 32]) -> Keypair {
    let secret = secp256k1::SecretKey::try_from_bytes(scalar).unwrap();
    secp256k1::Keypair::from(secret).into()
}

fn ecdsa(scalar: [u8; 32]) -> Keypair {
    let secret = ecdsa::SecretKey::try_from_bytes(scalar).unwrap();
    ecdsa::Keypair::from(secret).into()
}

fn generate(seed: u64) -> Certificate {
    Certificate::generate_with(&mut StdRng::seed_from_u64(seed))
}

/// Splits one DER element off.
fn split_element(der: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (header, len) = match der {
        [_, len, ..] if *len < 0x80 => (2, usize::from(*len)),
        [_, 0x81, len, ..] => (3, usize::from(*len)),
        [_, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => panic!("not DER: {der:?}"),
    };
    let (element, rest) = der.split_at(header + len);
    (element, &element[header..], rest)
}

/// The golden vector of go-libp2p and vectors computed with Go's own X.509 library.
#[test]
fn derives_the_same_certificate_as_go_libp2p() {
    for (name, keypair, serial, len, fingerprint) in [
        (
            "Ed25519, counting",
            ed25519(counting_seed()),
            0xcca8_608f_147a_2fc0,
            313,
            "dd6e2d63b0f0619e187a031f64771637a0418a71dcd8b9d78c6c69b1f4256491",
        ),
        (
            "Ed25519, zeros",
            ed25519([0; 32]),
            0xb17f_447f_604e_952c,
            312,
            "8a0e043f3ab3e6c13cd5e5418c83da0722cba66bd4d9fc6524f95063d848b241",
        ),
        (
            "Ed25519, ones",
            ed25519([0xff; 32]),
            0xda3c_d27c_f4fd_0d9f,
            313,
            "b82913520b452bd52972ddc6f15afa7edf95429590c182a6bbdd246674362e20",
        ),
        (
            "Secp256k1",
            secp256k1([1; 32]),
            0x5a16_ca72_f50a_388d,
            310,
            "184ce35cb01d8cd57799b49af7e3f41fa1a9015f1ae644ade40474dd4d5be28a",
        ),
        (
            "ECDSA",
            ecdsa([1; 32]),
            0xba61_2b24_778f_9493,
            312,
            "4cf2e161a9670b8d6b3bbe6394be16d5b6c1bca3eb4a5a22f3728b104e4e3cb1",
        ),
    ] {
        let material = derive_material(&raw_private_key(&keypair).unwrap());
        let certificate = Certificate::from_keypair(&keypair).unwrap();

        assert_eq!(material.serial, serial, "{name}");
        assert_eq!(certificate.certificate_der().len(), len, "{name}");
        assert_eq!(
            hex(certificate.fingerprint().as_bytes()),
            fingerprint,
            "{name}"
        );
    }
}

#[test]
fn derives_the_golden_certificate_step_by_step() {
    let keypair = ed25519(counting_seed());

    let material = derive_material(&raw_private_key(&keypair).unwrap());
    let secret = derive_secret_key(&material.key_seed[..]).unwrap();
    let certificate = Certificate::from_keypair(&keypair).unwrap();

    assert_eq!(
        hex(&material.key_seed[..]),
        "0c98d1ee95d35effa5656525c925c5a5c8349ecf3f81adab"
    );
    assert_eq!(
        hex(&secret.to_bytes()),
        "5db42caada90eb1c3554fa1d9fe5112107f6c1f9ddbc7d90bce4bae075fd7d80"
    );
    assert_eq!(hex(certificate.certificate_der()), GOLDEN_DER);
}

#[test]
fn certhash_of_the_golden_certificate_is_the_announced_one() {
    let certificate = Certificate::from_keypair(&ed25519(counting_seed())).unwrap();

    let address = crate::transport::addr::listen_addr(
        "192.0.2.1:9090".parse().unwrap(),
        &[certificate.fingerprint()],
    );

    assert_eq!(
        address.to_string(),
        "/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/uEiDdbi1jsPBhnhh6Ax9kdxY3oEGKcdzYudeMbGmx9CVkkQ"
    );
    assert_eq!(certificate.certhash().code(), 0x12);
    assert_eq!(
        certificate.certhash().digest(),
        certificate.fingerprint().as_bytes()
    );
}

/// The seed that C2SP det-keygen gives for this case: its first candidate is above the order of the curve.
#[test]
fn key_generation_draws_again_after_an_impossible_scalar() {
    let seed = unhex("b432f9be30890480298218510559aed7");

    let first = *HmacDrbg::new(&seed, KEYGEN_PERSONALIZATION).generate();
    let secret = derive_secret_key(&seed).unwrap();

    assert_eq!(
        hex(&first),
        "ffffffffc4e4a902de23a1ee060117738a0e2f0a2e4026129b1296452be4c02a"
    );
    assert_eq!(
        hex(&secret.to_bytes()),
        "8e33078565bd7d1f9f81011fa8b788632af840074ab0eb31f8022b77547d61f3"
    );
}

#[test]
fn ecdsa_identities_enter_in_the_encoding_of_go() {
    // Output of Go's x509.MarshalECPrivateKey for the scalar 01 01 ..
    assert_eq!(
        hex(&raw_private_key(&ecdsa([1; 32])).unwrap()),
        "30770201010420\
         0101010101010101010101010101010101010101010101010101010101010101\
         a00a06082a8648ce3d030107a14403420004\
         6ff03b949241ce1dadd43519e6960e0a85b41a69a05c328103aa2bce1594ca16\
         3c4f753a55bf01dc53f6c0b0c7eee78b40c6ff7d25a96e2282b989cef71c144a"
    );
}

#[test]
fn nothing_can_be_derived_from_an_rsa_identity() {
    let blocks = pem::parse_many(OPENSSL_RSA).unwrap();
    let key = blocks
        .iter()
        .find(|block| block.tag() == "PRIVATE KEY")
        .unwrap();
    let keypair = Keypair::rsa_from_pkcs8(&mut key.contents().to_vec()).unwrap();

    assert!(matches!(
        Certificate::from_keypair(&keypair),
        Err(CertificateError::UnsupportedIdentity(KeyType::RSA))
    ));
}

#[test]
fn serial_numbers_are_positive_and_minimal() {
    for (serial, der) in [
        (0, "020101"),
        (1, "020101"),
        (0x7f, "02017f"),
        (0x80, "02020080"),
        (0x7fff_ffff_ffff_ffff, "02087fffffffffffffff"),
        (u64::MAX, "020900ffffffffffffffff"),
    ] {
        assert_eq!(hex(&integer(serial)), der);
    }
}

#[test]
fn certificates_are_signed_with_their_own_key() {
    for certificate in [
        Certificate::from_keypair(&ed25519([0; 32])).unwrap(),
        generate(1),
    ] {
        let (_, content, rest) = split_element(certificate.certificate_der());
        assert!(rest.is_empty());
        let (to_be_signed, _, content) = split_element(content);
        let (algorithm, _, content) = split_element(content);
        let (_, bits, _) = split_element(content);
        let secret = SecretKey::from_pkcs8_der(certificate.private_key_der()).unwrap();
        let key = VerifyingKey::from(SigningKey::from(&secret));

        let signature = DerSignature::from_bytes(&bits[1..]).unwrap();

        assert_eq!(algorithm, ECDSA_WITH_SHA256);
        assert!(key.verify(to_be_signed, &signature).is_ok());
    }
}

#[test]
fn generated_certificates_differ() {
    assert_ne!(generate(1).fingerprint(), generate(2).fingerprint());
    assert_ne!(generate(1).private_key_der(), generate(2).private_key_der());
}

#[test]
fn pem_keeps_certificate_and_key() {
    let certificate = generate(1);

    let loaded = Certificate::from_pem(&certificate.to_pem()).unwrap();

    assert_eq!(loaded.certificate_der(), certificate.certificate_der());
    assert_eq!(loaded.private_key_der(), certificate.private_key_der());
    assert_eq!(loaded.certhash(), certificate.certhash());
}

#[test]
fn der_keeps_certificate_and_key() {
    let certificate = generate(1);

    let loaded = Certificate::from_der(
        certificate.certificate_der().to_vec(),
        certificate.private_key_der().to_vec(),
    )
    .unwrap();

    assert_eq!(loaded.certificate_der(), certificate.certificate_der());
    assert_eq!(loaded.private_key_der(), certificate.private_key_der());
}

#[test]
fn loads_what_openssl_makes() {
    let sec1 = Certificate::from_pem(OPENSSL_SEC1).unwrap();
    let pkcs8 = Certificate::from_pem(OPENSSL_PKCS8).unwrap();

    assert_eq!(sec1.fingerprint(), pkcs8.fingerprint());
    assert_eq!(sec1.private_key_der(), pkcs8.private_key_der());
    assert_eq!(
        sec1.fingerprint().to_sdp(),
        include_str!("testdata/openssl-fingerprint.txt").trim()
    );
}

#[test]
fn loads_what_libp2p_webrtc_stores() {
    let certificate = generate(1);
    let stored = format!(
        "-----BEGIN EXPIRES-----\nAAAAAAAAAAA=\n-----END EXPIRES-----\n{}",
        certificate.to_pem().replace("PRIVATE KEY", "PRIVATE_KEY")
    );

    let loaded = Certificate::from_pem(&stored).unwrap();

    assert_eq!(loaded.certhash(), certificate.certhash());
}

#[test]
fn refuses_keys_of_other_kinds() {
    for text in [OPENSSL_P384, OPENSSL_RSA] {
        assert!(matches!(
            Certificate::from_pem(text),
            Err(CertificateError::InvalidPrivateKey)
        ));
    }
}

#[test]
fn refuses_a_key_of_another_certificate() {
    let result = Certificate::from_der(
        generate(1).certificate_der().to_vec(),
        generate(2).private_key_der().to_vec(),
    );

    assert!(matches!(result, Err(CertificateError::KeyMismatch)));
}

#[test]
fn refuses_incomplete_pem() {
    let complete = generate(1).to_pem();
    let (certificate, key) = complete.split_at(complete.find("-----BEGIN PRIVATE").unwrap());

    assert!(matches!(
        Certificate::from_pem(certificate),
        Err(CertificateError::MissingPrivateKey)
    ));
    assert!(matches!(
        Certificate::from_pem(key),
        Err(CertificateError::MissingCertificate)
    ));
    assert!(matches!(
        Certificate::from_pem("no blocks"),
        Err(CertificateError::NotPem)
    ));
}

#[test]
fn names_an_encrypted_key() {
    let plain = generate(1).to_pem();
    let (_, block) = plain.split_at(plain.find("-----BEGIN PRIVATE").unwrap());
    let certificate = &plain[..plain.len() - block.len()];
    let pkcs8 = block.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let sec1 = block.replace("PRIVATE KEY", "EC PRIVATE KEY").replacen(
        "-----\n",
        "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
        1,
    );
    for key in [pkcs8, sec1] {
        assert!(matches!(
            Certificate::from_pem(&format!("{certificate}{key}")),
            Err(CertificateError::EncryptedPrivateKey)
        ));
    }
}

#[test]
fn generates_a_new_certificate_each_time() {
    let [one, two] = [0, 1].map(|_| Certificate::generate());
    assert_ne!(one.certhash(), two.certhash());
}

#[test]
fn refuses_broken_pem() {
    let broken = generate(1).to_pem().replace("END CERT", "END CART");

    assert!(matches!(
        Certificate::from_pem(&broken),
        Err(CertificateError::Pem(_))
    ));
}

#[test]
fn refuses_a_certificate_that_is_cut_or_extended() {
    let certificate = generate(1);
    let der = certificate.certificate_der();
    let key = certificate.private_key_der();
    for len in 0..der.len() {
        let result = Certificate::from_der(der[..len].to_vec(), key.to_vec());
        assert!(
            matches!(result, Err(CertificateError::InvalidCertificate)),
            "{len} bytes"
        );
    }
    let longer = [der, &[0]].concat();

    assert!(matches!(
        Certificate::from_der(longer, key.to_vec()),
        Err(CertificateError::InvalidCertificate)
    ));
}

#[test]
fn debug_output_hides_the_key() {
    let certificate = generate(1);

    let text = format!("{certificate:?}");

    assert_eq!(
        text,
        format!(
            "Certificate {{ fingerprint: {:?}, .. }}",
            certificate.fingerprint()
        )
    );
}
