//! Which queues a message reaches: exchanges and bindings as AMQP defines them. Pure; shared by the brokers that route themselves.
