"""Reading what runs have written: the Streamlit app and its data layer."""
