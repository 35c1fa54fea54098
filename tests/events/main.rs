//! Events and their subscribers, by the public interface, on a broker in memory. What brokers do with exchanges and
//! bindings stands in the contract suite.

mod publish;
mod published;
mod subscribe;
mod support;
