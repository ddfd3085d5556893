"""The seller: the one pipeline that provider agents and routers share.

authorise → quote → hold → forward → meter → capture → receipt, written once for every endpoint
and every payment form. What differs between sellers is the `Backend` they forward to.
"""
