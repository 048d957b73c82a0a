"""What stands between the scripts and the two modules that stand alone, dataset.py and attention_unet.py."""
