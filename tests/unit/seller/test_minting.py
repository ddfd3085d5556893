from typing import Any

import pytest

from infern.core.errors import Money, TransportError
from infern.core.f402.challenge import Terms, derive_preimage, open_token
from infern.core.f402.digest import invoice_description, request_digest
from infern.core.f402.receipt import SellerIdentity
from infern.core.fiber.invoice import HashAlgorithm
from infern.core.ids import TabId
from infern.core.market.price import Price
from infern.core.wire.bounds import ModelLimits
from infern.core.wire.endpoints import Endpoint
from infern.seller.backend import Listing
from infern.seller.minting import Minter

PRICE = Price(request_fee=10, input_per_mtok=1_000_000, output_per_mtok=2_000_000)
TERMS = Terms(price=PRICE, prompt_tokens_max=100, completion_tokens_max=50)
DIGEST = request_digest("POST", "/v1/chat/completions", b"{}")
LISTING = Listing(
    model="m",
    price=PRICE,
    limits=ModelLimits(context_tokens=100, max_completion_tokens=50),
    identity=SellerIdentity(
        genesis_hash=b"\x01" * 32,
        provider=b"\x02" * 32,
        listing=b"\x03" * 32,
        listing_data_hash=b"\x04" * 32,
        model_id=b"\x05" * 32,
    ),
    endpoints=frozenset(Endpoint),
    created_s=1,
)


@pytest.fixture
def make_minter(make_config: Any, payee: Any, clock: Any, entropy: Any) -> Any:
    return lambda **limits: Minter(make_config(**limits), fiber=payee, clock=clock, entropy=entropy)


def offer(minter: Minter) -> Any:
    return minter.offer(
        listing=LISTING, terms=TERMS, digest=DIGEST, target="/v1/chat/completions?a=b"
    )


async def test_an_offer_is_bound_to_its_request_seller_and_price(
    make_minter: Any, payee: Any, clock: Any
) -> None:
    made = await offer(make_minter())
    c = made.challenge
    invoice = payee.invoices[c.payment_hash]
    assert invoice.amount == c.amount == TERMS.ceiling == 10 + 100 + 100
    assert invoice.description == invoice_description(DIGEST)
    assert invoice.hash_algorithm is HashAlgorithm.SHA256
    assert invoice.expiry_s == 120
    assert (c.issuer, c.pay_to, c.digest, c.terms) == (
        "seller.test", payee.signer.pubkey, DIGEST, TERMS,
    )  # fmt: skip
    assert c.redeem_until_s - clock.now_ms() // 1000 == 86_400
    assert made.token.split(".")[1] == "k2"
    assert open_token(made.token, {"k2": b"\x0b" * 32}) == c
    assert made.resource == "https://seller.test/v1/chat/completions?a=b"
    # A restarted seller, or one whose node lost its store, can derive it again.
    assert payee.preimages[c.payment_hash] == derive_preimage(b"\x0c" * 32, c.nonce)


async def test_no_two_offers_share_a_payment(make_minter: Any) -> None:
    minter = make_minter()
    hashes = {(await offer(minter)).challenge.payment_hash for _ in range(20)}
    assert len(hashes) == 20


def test_each_cap_ends_minting(make_minter: Any, clock: Any) -> None:
    def minted(addresses: list[str], **limits: Any) -> list[bool]:
        minter = make_minter(**limits)
        return [minter.may_mint(address) for address in addresses]

    many = [f"192.0.2.{n}" for n in range(6)]
    assert minted(["a"] * 4, address_per_minute=2) == [True, True, False, False]
    assert minted(many, mint_burst=3) == [True] * 3 + [False] * 3
    assert minted(many, open_invoices=4) == [True] * 4 + [False] * 2
    minter = make_minter(mint_burst=1, mints_per_s=1)
    assert minter.may_mint("a")
    assert not minter.may_mint("b")
    clock.ms += 1_000
    assert minter.may_mint("c")


async def test_a_node_that_is_down_moves_nothing(make_minter: Any, payee: Any) -> None:
    payee.is_down = True
    minter = make_minter()
    for making in (offer(minter), minter.topup(amount=5, key_id="k", tab_id=TabId("t"))):
        with pytest.raises(TransportError) as caught:
            await making
        assert caught.value.code == "fiber_unavailable"
        assert caught.value.money is Money.UNMOVED
        assert caught.value.retry_after_s == 5


async def test_a_topup_names_its_key(make_minter: Any, payee: Any, clock: Any) -> None:
    topup = await make_minter(topup_expiry_s=60).topup(amount=5, key_id="key_1", tab_id=TabId("t"))
    invoice = payee.invoices[topup.payment_hash]
    assert (invoice.description, invoice.amount) == ("f402:1:topup:key_1", 5)
    assert topup.expires_ms == clock.now_ms() + 60_000 == invoice.expires_at_ms
