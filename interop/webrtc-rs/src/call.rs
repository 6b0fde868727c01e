//! One peer connection of the crate `webrtc`, and what it has to tell.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use webrtc::{
    api::{APIBuilder, setting_engine::SettingEngine},
    data_channel::{
        RTCDataChannel, data_channel_init::RTCDataChannelInit,
        data_channel_message::DataChannelMessage,
    },
    ice::{
        mdns::MulticastDnsMode,
        network_type::NetworkType,
        udp_mux::{UDPMuxDefault, UDPMuxParams},
        udp_network::UDPNetwork,
    },
    ice_transport::{
        ice_candidate::RTCIceCandidateInit, ice_connection_state::RTCIceConnectionState,
    },
    peer_connection::{
        RTCPeerConnection, certificate::RTCCertificate, configuration::RTCConfiguration,
        offer_answer_options::RTCOfferOptions, sdp::session_description::RTCSessionDescription,
    },
};

use crate::{
    Failure,
    gate::{Gate, GatedSocket},
};

/// Events that wait; a peer connection whose events are not taken stands still.
pub(crate) const MAX_EVENTS: usize = 64;

/// What a call tells, with the number of the call: an old one may have a last word.
pub(crate) type Told = (u32, CallEvent);

/// What happens.
#[derive(Debug)]
pub(crate) enum CallEvent {
    /// One more address of ours, or that there are no more.
    Candidate(Option<RTCIceCandidateInit>),
    /// State of ICE.
    Ice(RTCIceConnectionState),
    /// The data channel is open.
    Open,
    /// A message came by it.
    Message(Message),
    /// It is closed.
    Closed,
}

/// A message of a data channel.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Bytes,
    pub(crate) is_text: bool,
}

/// A peer connection that offers.
pub(crate) struct Call {
    connection: Arc<RTCPeerConnection>,
    /// What cuts its UDP.
    pub(crate) gate: Gate,
    /// Candidates that came before the answer.
    early: Option<Vec<RTCIceCandidateInit>>,
}

impl Call {
    /// A peer connection without channels. With an empty list the certificate is one of its own.
    pub(crate) async fn new(certificates: Vec<RTCCertificate>) -> Result<Self, Failure> {
        let gate = Gate::default();
        let socket = GatedSocket::bind(gate.clone()).await?;
        let mut engine = SettingEngine::default();
        let mux = UDPMuxDefault::new(UDPMuxParams::new(socket));
        engine.set_udp_network(UDPNetwork::Muxed(mux));
        engine.set_network_types(vec![NetworkType::Udp4]);
        // What is tested is on this machine.
        engine.set_include_loopback_candidate(true);
        engine.set_ice_multicast_dns_mode(MulticastDnsMode::Disabled);
        let configuration = RTCConfiguration {
            certificates,
            ..RTCConfiguration::default()
        };
        let api = APIBuilder::new().with_setting_engine(engine).build();
        let connection = api.new_peer_connection(configuration).await?;
        Ok(Self {
            connection: Arc::new(connection),
            gate,
            early: Some(Vec::new()),
        })
    }

    /// The peer connection itself.
    pub(crate) fn connection(&self) -> &Arc<RTCPeerConnection> {
        &self.connection
    }

    /// Tells of addresses and of ICE from now on.
    pub(crate) fn watch(&self, number: u32, events: &Sender<Told>) {
        let sender = events.clone();
        self.connection.on_ice_candidate(Box::new(move |candidate| {
            let sender = sender.clone();
            Box::pin(async move {
                let candidate = candidate.and_then(|candidate| candidate.to_json().ok());
                tell(&sender, number, CallEvent::Candidate(candidate)).await;
            })
        }));
        let sender = events.clone();
        self.connection
            .on_ice_connection_state_change(Box::new(move |state| {
                let sender = sender.clone();
                Box::pin(async move { tell(&sender, number, CallEvent::Ice(state)).await })
            }));
    }

    /// Makes the channel of SocketPipe and tells of it from now on.
    pub(crate) async fn open_channel(
        &self,
        number: u32,
        events: &Sender<Told>,
    ) -> Result<Arc<RTCDataChannel>, Failure> {
        let options = RTCDataChannelInit {
            ordered: Some(true),
            protocol: Some("socketpipe/1.0".to_owned()),
            ..RTCDataChannelInit::default()
        };
        let channel = self
            .connection
            .create_data_channel("socketpipe", Some(options));
        let channel = channel.await?;
        let sender = events.clone();
        channel.on_open(Box::new(move || {
            Box::pin(async move { tell(&sender, number, CallEvent::Open).await })
        }));
        let sender = events.clone();
        channel.on_message(Box::new(move |message: DataChannelMessage| {
            let sender = sender.clone();
            let message = Message {
                bytes: message.data,
                is_text: message.is_string,
            };
            Box::pin(async move { tell(&sender, number, CallEvent::Message(message)).await })
        }));
        let sender = events.clone();
        channel.on_close(Box::new(move || {
            let sender = sender.clone();
            Box::pin(async move { tell(&sender, number, CallEvent::Closed).await })
        }));
        Ok(channel)
    }

    /// A description to send; candidates follow as events.
    pub(crate) async fn offer(&mut self, ice_restart: bool) -> Result<String, Failure> {
        let options = RTCOfferOptions {
            ice_restart,
            ..RTCOfferOptions::default()
        };
        let offer = self.connection.create_offer(Some(options)).await?;
        let sdp = offer.sdp.clone();
        self.early.get_or_insert_default();
        self.connection.set_local_description(offer).await?;
        Ok(sdp)
    }

    /// The answer came.
    pub(crate) async fn answer(&mut self, sdp: String) -> Result<(), Failure> {
        let answer = RTCSessionDescription::answer(sdp)?;
        self.connection.set_remote_description(answer).await?;
        for candidate in self.early.take().unwrap_or_default() {
            self.connection.add_ice_candidate(candidate).await?;
        }
        Ok(())
    }

    /// A candidate of the server came.
    pub(crate) async fn candidate(
        &mut self,
        candidate: String,
        mid: String,
        index: u16,
    ) -> Result<(), Failure> {
        let candidate = RTCIceCandidateInit {
            candidate,
            sdp_mid: Some(mid),
            sdp_mline_index: Some(index),
            username_fragment: None,
        };
        match &mut self.early {
            Some(early) => early.push(candidate),
            None => self.connection.add_ice_candidate(candidate).await?,
        }
        Ok(())
    }

    /// Ends it, with the goodbyes that its gate lets through. It may take its time: it is not waited for.
    pub(crate) fn close(self) {
        tokio::spawn(async move {
            if let Err(error) = self.connection.close().await {
                eprintln!("webrtc-rs: a peer connection did not close: {error}");
            }
        });
    }
}

/// Nobody listens any more when the program is about to end.
async fn tell(events: &Sender<Told>, number: u32, event: CallEvent) {
    drop(events.send((number, event)).await);
}
