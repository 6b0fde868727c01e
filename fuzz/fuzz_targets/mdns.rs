#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| libp2p_rtc::fuzzing::mdns(data));
