"""Select: which samples may be published, by screening and noise learning."""
