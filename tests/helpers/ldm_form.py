"""Names and shapes of latent diffusion's weights at any size, as its checkpoints hold them."""

from collections.abc import Iterator

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


def _layer(name: str, *shape: int) -> Named:
    """A convolution or a linear layer, with its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _residual(name: str, before: int, after: int, time: int) -> Named:
    yield from _layer(f"{name}.in_layers.0", before)
    yield from _layer(f"{name}.in_layers.2", after, before, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", after, time)
    yield from _layer(f"{name}.out_layers.0", after)
    yield from _layer(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.skip_connection", after, before, 1, 1)


def _transformer(name: str, width: int, context: int) -> Named:
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", context)):
        yield f"{block}.{attention}.to_q.weight", (width, width)
        yield f"{block}.{attention}.to_k.weight", (width, source)
        yield f"{block}.{attention}.to_v.weight", (width, source)
        yield from _layer(f"{block}.{attention}.to_out.0", width, width)
    yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _layer(f"{block}.{norm}", width)
    yield from _layer(f"{name}.proj_out", width, width, 1, 1)


def denoiser(
    model_channels: int,
    channel_mult: list[int],
    num_res_blocks: int,
    attention_resolutions: list[int],
    context_dim: int,
    in_channels: int = 3,
    **_,
) -> Named:
    """Of a U-Net, under `model.diffusion_model.`."""
    stem, base, time = "model.diffusion_model.", model_channels, 4 * model_channels
    yield from _layer(f"{stem}time_embed.0", time, base)
    yield from _layer(f"{stem}time_embed.2", time, time)
    yield from _layer(f"{stem}input_blocks.0.0", base, in_channels, 3, 3)
    width, down, number, skipped = base, 1, 1, [base]
    for level, times in enumerate(channel_mult):
        for _ in range(num_res_blocks):
            yield from _residual(f"{stem}input_blocks.{number}.0", width, times * base, time)
            width = times * base
            if down in attention_resolutions:
                yield from _transformer(f"{stem}input_blocks.{number}.1", width, context_dim)
            skipped.append(width)
            number += 1
        if level < len(channel_mult) - 1:
            yield from _layer(f"{stem}input_blocks.{number}.0.op", width, width, 3, 3)
            skipped.append(width)
            number, down = number + 1, 2 * down
    yield from _residual(f"{stem}middle_block.0", width, width, time)
    yield from _transformer(f"{stem}middle_block.1", width, context_dim)
    yield from _residual(f"{stem}middle_block.2", width, width, time)
    number = 0
    for level, times in reversed(list(enumerate(channel_mult))):
        for block in range(num_res_blocks + 1):
            yield from _residual(f"{stem}output_blocks.{number}.0", width + skipped.pop(), times * base, time)
            width, place = times * base, 1
            if down in attention_resolutions:
                yield from _transformer(f"{stem}output_blocks.{number}.1", width, context_dim)
                place = 2
            if level and block == num_res_blocks:
                yield from _layer(f"{stem}output_blocks.{number}.{place}.conv", width, width, 3, 3)
                down //= 2
            number += 1
    yield from _layer(f"{stem}out.0", width)
    yield from _layer(f"{stem}out.2", in_channels, width, 3, 3)


def _block(name: str, before: int, after: int) -> Named:
    yield from _layer(f"{name}.norm1", before)
    yield from _layer(f"{name}.conv1", after, before, 3, 3)
    yield from _layer(f"{name}.norm2", after)
    yield from _layer(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.nin_shortcut", after, before, 1, 1)


def _middle(name: str, width: int) -> Named:
    yield from _block(f"{name}.block_1", width, width)
    yield from _layer(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    yield from _block(f"{name}.block_2", width, width)


def autoencoder(embed_dim: int, n_embed: int, ddconfig: dict, **_) -> Named:
    """Of a VQ autoencoder, under `first_stage_model.`."""
    stem, base, times, z = "first_stage_model.", ddconfig["ch"], ddconfig["ch_mult"], ddconfig["z_channels"]
    last, width = len(times) - 1, base
    yield from _layer(f"{stem}encoder.conv_in", base, 3, 3, 3)
    for level, factor in enumerate(times):
        for block in range(ddconfig["num_res_blocks"]):
            yield from _block(f"{stem}encoder.down.{level}.block.{block}", width, factor * base)
            width = factor * base
        if level < last:
            yield from _layer(f"{stem}encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _middle(f"{stem}encoder.mid", width)
    yield from _layer(f"{stem}encoder.norm_out", width)
    yield from _layer(f"{stem}encoder.conv_out", z, width, 3, 3)
    yield from _layer(f"{stem}decoder.conv_in", width, z, 3, 3)
    yield from _middle(f"{stem}decoder.mid", width)
    for level, factor in reversed(list(enumerate(times))):
        for block in range(ddconfig["num_res_blocks"] + 1):
            yield from _block(f"{stem}decoder.up.{level}.block.{block}", width, factor * base)
            width = factor * base
        if level:
            yield from _layer(f"{stem}decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _layer(f"{stem}decoder.norm_out", width)
    yield from _layer(f"{stem}decoder.conv_out", 3, width, 3, 3)
    yield from _layer(f"{stem}quant_conv", embed_dim, z, 1, 1)
    yield from _layer(f"{stem}post_quant_conv", z, embed_dim, 1, 1)
    yield f"{stem}quantize.embedding.weight", (n_embed, embed_dim)


def summarizer(
    input_channels: int,
    hidden_channels: int,
    output_channels: int,
    num_layers: int,
    vit_mlp_dim: int,
    mag_levels: int,
    **_,
) -> Named:
    """Of ZoomLDM's conditioner, under `cond_stage_model.`."""
    stem, width = "cond_stage_model.", hidden_channels
    yield f"{stem}pad_token", (1, 1, width)
    yield f"{stem}mag_embedding.weight", (mag_levels, width)
    yield from _layer(f"{stem}dim_reduce", width, input_channels)
    yield f"{stem}encoder.pos_embedding", (1, 65, width)
    for number in range(num_layers):
        layer = f"{stem}encoder.layers.encoder_layer_{number}"
        yield from _layer(f"{layer}.ln_1", width)
        yield f"{layer}.self_attention.in_proj_weight", (3 * width, width)
        yield f"{layer}.self_attention.in_proj_bias", (3 * width,)
        yield from _layer(f"{layer}.self_attention.out_proj", width, width)
        yield from _layer(f"{layer}.ln_2", width)
        yield from _layer(f"{layer}.mlp.0", vit_mlp_dim, width)
        yield from _layer(f"{layer}.mlp.3", width, vit_mlp_dim)
    yield from _layer(f"{stem}encoder.ln", width)
    yield from _layer(f"{stem}final_proj", output_channels, width)
    yield from _layer(f"{stem}layer_norm", output_channels)


def averaged(named: dict[str, Shape]) -> dict[str, Shape]:
    """The same of the denoiser as its EMA is named."""
    return {"model_ema." + name.removeprefix("model.").replace(".", ""): shape for name, shape in named.items()}
