"""Operations: what people call."""
