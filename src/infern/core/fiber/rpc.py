"""Every typed call of fnn's JSON-RPC under one name; written by area in the `rpc_*` modules."""

from infern.core.fiber.rpc_channels import (
    AbandonChannel,
    AcceptChannel,
    ChannelTerms,
    ListChannels,
    OpenChannel,
    ShutdownChannel,
    UpdateChannel,
)
from infern.core.fiber.rpc_graph import (
    GraphChannels,
    GraphChannelsPage,
    GraphNodes,
    GraphNodesPage,
)
from infern.core.fiber.rpc_invoices import (
    CancelInvoice,
    GetInvoice,
    NewInvoice,
    ParseInvoice,
    SettleInvoice,
)
from infern.core.fiber.rpc_payments import (
    BuildRouter,
    GetPayment,
    HopHint,
    HopRequirement,
    ListPayments,
    PaymentsPage,
    RouterHop,
    SendPayment,
    SendPaymentWithRouter,
)
from infern.core.fiber.rpc_peers import ConnectPeer, DisconnectPeer, GetNodeInfo, ListPeers

__all__ = [
    "AbandonChannel",
    "AcceptChannel",
    "BuildRouter",
    "CancelInvoice",
    "ChannelTerms",
    "ConnectPeer",
    "DisconnectPeer",
    "GetInvoice",
    "GetNodeInfo",
    "GetPayment",
    "GraphChannels",
    "GraphChannelsPage",
    "GraphNodes",
    "GraphNodesPage",
    "HopHint",
    "HopRequirement",
    "ListChannels",
    "ListPayments",
    "ListPeers",
    "NewInvoice",
    "OpenChannel",
    "ParseInvoice",
    "PaymentsPage",
    "RouterHop",
    "SendPayment",
    "SendPaymentWithRouter",
    "SettleInvoice",
    "ShutdownChannel",
    "UpdateChannel",
]
