"""The channel contract: ``channel.tolk``, its compiled code ``channel.boc`` and that code's hash ``channel.code_hash``.

``node overlay/settlement/contract/compile.js`` compiles anew; a test recompiles and compares.
"""
